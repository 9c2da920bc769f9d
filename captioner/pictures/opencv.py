"""OpenCV, with a sentence where a system library of its wheel is missing."""

from __future__ import annotations

import re

from captioner.errors import MissingLibraryError

try:
    import cv2
except ImportError as error:
    # What its wheel expects of a desktop and a container lacks: libGL, libgthread, libxcb.
    # All at once (Debian's and Ubuntu's names), since the loader tells of one at a time.
    if re.match(r"lib\S+: cannot open shared object", str(error)):
        remedy = f"misses a system library ({error}); run 'apt-get install libgl1 libglib2.0-0'"
    else:
        remedy = f"cannot be imported ({error}); run 'pip install -r requirements.txt'"
    raise MissingLibraryError(f"OpenCV {remedy}.") from error

# A broken picture is answered in words, not in OpenCV's log.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

__all__ = ["cv2"]
