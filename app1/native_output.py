"""Keeps the lines of native libraries out of app1's log.

libjpeg, libpng and libtiff, inside OpenCV and Pillow, write what they find wrong with a picture to
descriptor 2, past Python: libtiff a line for each row of a damaged fax, so that a small upload adds
megabytes to the log. The sender gets a sentence about it; the log does not need these lines.
"""

from __future__ import annotations

import os
import sys


def keep_native_lines_out() -> None:
    """Leave standard error to Python; what else is written there is dropped.

    Call this first in a process: what holds the old `sys.stderr`, for example a log handler, loses
    its output.
    """
    descriptor = sys.stderr.fileno()
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(descriptor), "w", buffering=1, errors="backslashreplace")
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), descriptor)
