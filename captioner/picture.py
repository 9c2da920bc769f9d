"""The one way in for a picture: a path, bytes or an array become pixels, the same everywhere.

Training, command line and servers all call `read_picture` and `encoder_input`, so that a model is
served what it was trained on. No web here, and nothing that knows a model.

OpenCV decodes JPEG, PNG and WebP and does all resizing; Pillow decodes GIF, BMP and TIFF, and grey
PNGs with a transparent shade, where OpenCV cannot tell all that it has. Whatever the kind:

- bytes and pixels are counted before anything is decoded, the pixels from the file's header;
- the kind is decided by the content against a list, never by a name;
- EXIF's orientation is applied, all other metadata is dropped;
- grey, palette and CMYK become RGB, transparent parts white, 16 bits 8, and of an animation the
  first frame is taken.

Embedded colour profiles are dropped like other metadata, not applied: the encoder's own training
pictures were read so, a wide-gamut photo only comes out a little paler, and a colour engine would
be one more parser of untrusted bytes, at some 10 ms a megapixel.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from captioner.errors import (
    MissingLibraryError,
    NoPictureError,
    PictureTooLargeError,
    UnsupportedPictureError,
)
from captioner.picture_header import READ, broken, kind_of, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image, ImageFile

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

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8]"

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
# What serves asks for in `shortest_side_at_least`: twice the encoder's input, and a thumbnail's.
DECODE_SIDE = 600
_MAX_SIDE = 65_535  # JPEG's own limit; keeps resizing sane for pictures of one line
_STRIP_PIXELS = 2**20

_PILLOW_LOCK = threading.Lock()


def read_picture(
    source: Source,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    shortest_side_at_least: int | None = None,
) -> NDArray[np.uint8]:
    """Read a picture: a path, the bytes of a file, or an RGB array, which is checked and returned.

    Returns RGB (height, width, 3) uint8, upright.

    With `shortest_side_at_least` a JPEG is decoded at a half, a quarter or an eighth of its size,
    the smallest whose shorter side still reaches it: for 12 megapixels and 600 that takes a third
    of the time. Other kinds come at full size. Encoder inputs (299 x 299) made with 600 differ
    from those of the full picture by 0.4 to 2 of 255 levels a pixel on average, about as much as
    saving the JPEG once more; `tests/captioner/test_picture.py` holds one photo to 1.

    Raises NoPictureError (nothing there, or not readable), PictureTooLargeError (more than
    `max_bytes` or `max_pixels`), UnsupportedPictureError (not a kind of image that we read) or
    BrokenPictureError (damaged, cut short).
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        data = read_file(source, max_bytes)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    else:
        raise TypeError(
            f"A picture is given as a path, as bytes or as an RGB array, not as {type(source)}."
        )
    if not data:
        raise NoPictureError("The file is empty (0 bytes); choose the picture again.")
    if len(data) > max_bytes:
        raise _too_many_bytes(len(data), max_bytes)
    kind = kind_of(data)
    if kind not in READ:
        raise UnsupportedPictureError(
            f"This is {kind}, not a picture that we read; "
            f"save it as one of {', '.join(READ[:-1])} or {READ[-1]}."
        )
    if kind not in ("JPEG", "PNG", "WebP"):
        return _decode_with_pillow(kind, data, max_pixels)
    header = read_header(kind, data)
    _check_size(header.width, header.height, max_pixels)
    if header.grey_key:
        rgb = _decode_with_pillow(kind, header.pixels, max_pixels)
    else:
        flags = _jpeg_flags(header.width, header.height, shortest_side_at_least)
        rgb = _decode_with_opencv(kind, header.pixels, flags)
    return _upright(rgb, header.orientation)


def encoder_input(rgb: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """RGB (height, width, 3) uint8 -> what the encoder takes: (size, size, 3) float32 in [-1, 1].

    The picture is squashed, not cropped: nothing that a caption could name is cut away. What is too
    long is averaged down first (area), what is too short then drawn out (linear), since OpenCV's
    area mode does not average when one side shrinks and the other grows.
    """
    height, width = rgb.shape[:2]
    rgb = _resized(rgb, min(width, size), min(height, size), cv2.INTER_AREA)
    rgb = _resized(rgb, size, size, cv2.INTER_LINEAR)
    return rgb.astype(np.float32) / np.float32(127.5) - np.float32(1)


@dataclass(frozen=True)
class SmallCopies:
    """How the photos that a model learned from were made small, so that others become alike.

    A model learns what rounding and JPEG leave of its training photos, and says other things of a
    photo without (docs/experiments.md, full-size photos).

    Attributes:
        side: of the squashed copies, in pixels.
        quality: of their JPEG.
        above: photos of more pixels than a square of this side are made small; others are left.
    """

    side: int
    quality: int
    above: int

    def of(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB (height, width, 3) uint8 -> its copy (side, side, 3), or itself if it is small."""
        height, width = rgb.shape[:2]
        if height * width <= self.above**2:
            return rgb
        rgb = _resized(rgb, min(width, self.side), min(height, self.side), cv2.INTER_AREA)
        rgb = _resized(rgb, self.side, self.side, cv2.INTER_LINEAR)
        copy = cv2.imdecode(_jpeg(rgb, self.quality), cv2.IMREAD_COLOR)
        return cv2.cvtColor(copy, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def thumbnail_jpeg(rgb: NDArray[np.uint8], longest_side: int) -> bytes:
    """RGB (height, width, 3) uint8 -> a JPEG file, no side longer than `longest_side` pixels.

    The shape is kept, a small picture is not enlarged, and there is no metadata in the file.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    rgb = _resized(rgb, max(1, round(width * scale)), max(1, round(height * scale)), cv2.INTER_AREA)
    return _jpeg(rgb, 80).tobytes()


def _jpeg(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.astype(np.uint8, copy=False)


def _resized(
    rgb: NDArray[np.uint8], width: int, height: int, interpolation: int
) -> NDArray[np.uint8]:
    if rgb.shape[:2] == (height, width):
        return rgb
    return cv2.resize(rgb, (width, height), interpolation=interpolation)


def read_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a picture file.

    Raises:
        NoPictureError: there is none, or it may not be read.
        PictureTooLargeError: it has more than `max_bytes`.
    """
    name = repr(os.fspath(path))
    try:
        # Asked before opening, which would wait for ever on a pipe.
        state = os.stat(path)
        if stat.S_ISDIR(state.st_mode):
            raise NoPictureError(f"{name} is a folder, not a picture; name a file in it.")
        if not stat.S_ISREG(state.st_mode):
            raise NoPictureError(f"{name} is not an ordinary file; name a picture file.")
        if state.st_size > max_bytes:
            raise _too_many_bytes(state.st_size, max_bytes)
        with Path(path).open("rb") as file:
            return file.read(max_bytes + 1)
    except FileNotFoundError:
        raise NoPictureError(f"There is no file {name}; check the name.") from None
    except PermissionError:
        raise NoPictureError(f"{name} may not be read; check its permissions.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character in it
        reason = getattr(error, "strerror", None) or error
        raise NoPictureError(f"{name} cannot be read ({reason}); check the name.") from None


def _checked_array(array: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UnsupportedPictureError(
            "An array must be RGB of shape (height, width, 3) and type uint8, and this one has "
            f"shape {array.shape} and type {array.dtype}; convert it first."
        )
    _check_size(array.shape[1], array.shape[0], max_pixels)
    return np.ascontiguousarray(array)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > _MAX_SIDE:
        raise PictureTooLargeError(
            f"The picture is {width} x {height} pixels large, and at most {max_pixels / 1e6:g} "
            f"megapixels and {_MAX_SIDE} pixels a side are accepted; send a smaller copy."
        )


def _too_many_bytes(size: int, max_bytes: int) -> PictureTooLargeError:
    return PictureTooLargeError(
        f"The picture has {size / 2**20:.1f} MB, and at most {max_bytes / 2**20:g} MB are "
        "accepted; send a smaller or more compressed copy."
    )


def _jpeg_flags(width: int, height: int, shortest_side_at_least: int | None) -> int:
    """OpenCV's flags for decoding a JPEG of that size, at a fraction of it where that is enough."""
    if shortest_side_at_least is not None:
        for divisor, flag in (
            (8, cv2.IMREAD_REDUCED_COLOR_8),
            (4, cv2.IMREAD_REDUCED_COLOR_4),
            (2, cv2.IMREAD_REDUCED_COLOR_2),
        ):
            if min(width, height) >= divisor * max(1, shortest_side_at_least):
                return int(flag)
    return int(cv2.IMREAD_COLOR)


def _decode_with_opencv(kind: str, data: bytes, jpeg_flags: int) -> NDArray[np.uint8]:
    """Decode as the file lies, not yet turned upright."""
    # Unchanged keeps the alpha channel and all 16 bits, whose conversion OpenCV leaves to us.
    flags = jpeg_flags | cv2.IMREAD_IGNORE_ORIENTATION if kind == "JPEG" else cv2.IMREAD_UNCHANGED
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise broken(kind)
    height, width = pixels.shape[:2]
    return _in_strips(height, width, lambda rows: _rgb_of_bgr(pixels[rows]))


def _rgb_of_bgr(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """What OpenCV decodes to (grey, BGR or BGRA, of 8 or 16 bits) -> RGB uint8."""
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.shape[2] == 4:
        return _on_white(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _strips(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture, some at a time."""
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _in_strips(
    height: int, width: int, rgb_of: Callable[[slice], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """RGB (height, width, 3) uint8, converted by `rgb_of` some rows at a time.

    All at once, a conversion takes up to 20 bytes a pixel beside what it makes: a gigabyte for 50
    megapixels.
    """
    first, *others = _strips(height, width)
    if not others:
        return rgb_of(first)
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in (first, *others):
        rgb[rows] = rgb_of(rows)
    return rgb


def _decode_with_pillow(kind: str, data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode and, for TIFF, turn upright; the pixels are counted as soon as the header is read."""
    from PIL import BmpImagePlugin, GifImagePlugin, Image, PngImagePlugin, TiffImagePlugin

    # The classes themselves: Image.open tries others and has a pixel limit for the whole process.
    readers: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
        "BMP": BmpImagePlugin.BmpImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
    }
    # Pillow warns of odd metadata, which we drop; the filters are the process's, hence the lock.
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with readers[kind](_MeteredFile(data)) as image:
                _check_size(*image.size, max_pixels)
                image.load()
                return _rgb_of(image)
        except PictureTooLargeError:
            raise
        except Image.DecompressionBombError:
            raise PictureTooLargeError(
                f"The {kind} picture unpacks to far more pixels than are accepted; "
                "send a smaller copy."
            ) from None
        except Exception:  # decoders fail in many ways on damaged files
            raise broken(kind) from None


class _MeteredFile(io.BytesIO):
    """A file that may be read three times over, in two million pieces, and no more.

    A thousand tags can name one long piece; and a BMP or a GIF may consist of pieces of a byte or
    two, each of which takes a microsecond.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._bytes_left = 3 * len(data) + 65_536
        self._reads_left = 2_000_000

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._bytes_left -= len(data)
        self._reads_left -= 1
        if self._bytes_left < 0 or self._reads_left < 0:
            raise OSError("the file makes its reader work without end")
        return data


def _rgb_of(image: Image.Image) -> NDArray[np.uint8]:
    """Any mode of Pillow's -> RGB (height, width, 3) uint8."""
    clear = image.has_transparency_data
    if clear and image.format == "BMP":  # many BMPs leave the fourth byte 0
        clear = image.getextrema()[-1] != (0, 0)
    thirty_two_bits = image.mode in ("I", "F")
    black, white = _extremes(image) if thirty_two_bits else (0.0, 0.0)

    def convert(rows: slice) -> NDArray[np.uint8]:
        strip = _strip(image, rows)
        if image.mode.startswith("I;16"):
            values = np.asarray(strip).astype(np.uint16, copy=False)
            grey = cv2.convertScaleAbs(values, alpha=1 / 257)
            return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        if thirty_two_bits:
            shades = (_finite(strip) - black) * (255 / max(white - black, 1e-9))
            return cv2.cvtColor(shades.round().astype(np.uint8), cv2.COLOR_GRAY2RGB)
        if clear:
            return _on_white(np.array(strip.convert("RGBA")))
        return np.array(strip.convert("RGB"))

    return _in_strips(image.height, image.width, convert)


def _strip(image: Image.Image, rows: slice) -> Image.Image:
    return image.crop((0, rows.start, image.width, rows.stop))


def _extremes(image: Image.Image) -> tuple[float, float]:
    """The darkest and the lightest value: 32 bits have no other black and white to agree on."""
    black, white = math.inf, -math.inf
    for rows in _strips(image.height, image.width):
        values = _finite(_strip(image, rows))
        black, white = min(black, float(values.min())), max(white, float(values.max()))
    return black, white


def _finite(image: Image.Image) -> NDArray[np.float64]:
    """The values of a picture of 32 bits, with 0 for what is no number."""
    return np.nan_to_num(np.asarray(image).astype(np.float64), copy=False, posinf=0, neginf=0)


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA (height, width, 4) uint8 -> RGB as seen in front of white."""
    rgba = cv2.cvtColor(rgba, cv2.COLOR_RGBA2mRGBA)  # colours times alpha: never above alpha
    return np.ascontiguousarray(rgba[..., :3] + (255 - rgba[..., 3:]))


def _upright(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror as EXIF's orientation says (CIPA DC-008, tag 0x0112)."""
    if orientation in (2, 4):
        return cv2.flip(rgb, 1 if orientation == 2 else 0)
    if orientation in (5, 7):
        turned = cv2.transpose(rgb)
        return turned if orientation == 5 else cv2.rotate(turned, cv2.ROTATE_180)
    turn = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return cv2.rotate(rgb, turn[orientation]) if orientation in turn else rgb
