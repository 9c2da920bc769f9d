"""app1 as a program, whose captioner stands still as long as the file named as argument exists.

python tests/app1/held_app1.py FILE
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from app1.app import main
from captioner import Captioner

caption_rgb = Captioner.caption_rgb


def held(*args: Any, **options: Any) -> Any:
    while Path(sys.argv[1]).exists():
        time.sleep(0.01)
    return caption_rgb(*args, **options)


Captioner.caption_rgb = held  # type: ignore[method-assign]
sys.exit(main())
