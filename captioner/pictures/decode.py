"""Decodes picture files: one decoder, Pillow, for every kind.

OpenCV does arithmetic on pixels only. Whatever the kind:

- bytes and pixels are counted before anything is decoded, the pixels from the file's header;
- the kind is decided by the content, never by a name;
- the orientation is applied once (EXIF's; HEIF's own in place of it), other metadata is dropped;
- grey, palette and CMYK become RGB, transparent parts white, 16 bits 8;
- of an animation the first frame is taken, or a later one where the first is one flat colour;
- of a camera's raw file the largest preview inside is taken.

Embedded colour profiles are dropped, not applied. The encoder's own training pictures were read so,
a wide-gamut photo only becomes a little paler, and a colour engine would be one more parser of
untrusted bytes, at some 10 ms a megapixel.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import struct
import threading
import warnings
import zlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from captioner.errors import (
    BrokenPictureError,
    NoPictureError,
    PictureError,
    PictureTooLargeError,
    UnsupportedPictureError,
)
from captioner.pictures.kinds import JPEG_XL, RAW, READ, kind_of
from captioner.pictures.opencv import cv2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8]"

# Against memory only. A server has a limit of its own for uploads (CAPTIONER_MAX_UPLOAD_MB).
MAX_BYTES = 2**30
MAX_PIXELS = 50_000_000
# A kind that is decoded at reduced size may have more pixels, since its memory is what counts.
REDUCED_FACTOR = 4
_MAX_SIDE = 65_535  # JPEG's own limit; keeps resizing sane for pictures of one line
_STRIP_PIXELS = 2**20
# More pieces than any camera or editor writes: a file of nothing but empty pieces costs no time.
_MAX_PIECES = 100_000
# Encoders write about ten scans into a progressive JPEG. For each of them the decoder goes through
# the whole picture, though it may have only 76 bytes: 20 MB of those would take hours.
_MAX_SCANS = 200
# Adam7: for each pass its first column and row, and the steps.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
_MAX_FRAMES = 50  # of an animation that are looked at
# Parts of JPEGs that are looked at in a raw file. Some hold the sensor's data as a thousand JPEGs.
_MAX_MARKERS = 100_000
_MAX_PARTS = 100  # before a JPEG's size
_MAX_PREVIEWS = 8  # that are opened, the largest first
_FLAT = 3  # levels by which pixels of a flat colour differ at most

# Plug-in classes of Pillow. `Image.open` would try others, and has a pixel limit for the process.
_READERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "HEIC": ("pi_heif", "HeifImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "JPEG 2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "TGA": ("PIL.TgaImagePlugin", "TgaImageFile"),
    JPEG_XL: ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),
}
# These are loaded at the same time by several threads; what may warn is not.
_WITHOUT_WARNINGS = ("JPEG", "PNG", "WebP", "HEIC", "AVIF", "JPEG 2000", JPEG_XL)
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = (
    0xFE,
    0x100,
    0x101,
    0x102,
    0x103,
    0x106,
)
_MAKE, _ORIENTATION, _SAMPLES, _PLANES, _SUB_IFDS, _FORMAT = (
    0x10F,
    0x112,
    0x115,
    0x11C,
    0x14A,
    0x153,
)
_DNG_VERSION = 0xC612
# Photometric interpretations of a sensor's own data, and compressions of camera makers.
_OF_A_SENSOR = (32803, 34892)
_OF_A_MAKER = (32767, 32769, 32770, 34713, 65000, 65535)

# Pillow warns of odd metadata, which is dropped. The filters are the process's, hence the lock.
_WARNINGS = threading.Lock()


def read_picture(
    source: Source,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    shortest_side_at_least: int | None = None,
) -> NDArray[np.uint8]:
    """Reads a picture: a path, the bytes of a file, or an RGB array, which is checked and returned.

    Args:
        shortest_side_at_least: a JPEG is decoded at a half, a quarter or an eighth of its size, the
            smallest whose shorter side still reaches it. For 12 megapixels and 600 that takes a
            third of the time, and the photo may then have four times `max_pixels`. Encoder inputs
            (299 x 299) differ by 0.4 to 2 of 255 levels a pixel on average, about as much as saving
            the JPEG once more.

    Returns:
        RGB (height, width, 3) uint8, upright.

    Raises:
        NoPictureError: nothing is there, or it cannot be read.
        PictureTooLargeError: it has more than `max_bytes` or `max_pixels`.
        UnsupportedPictureError: it is not a kind of image that is read here.
        BrokenPictureError: it is damaged, or cut short.
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
    if kind not in READ and not (kind == JPEG_XL and find_spec("pillow_jxl")):
        raise UnsupportedPictureError(_unsupported(kind))
    try:
        if kind == RAW:
            preview = _largest_preview(data)
            return _decode_preview(data, preview, max_pixels, shortest_side_at_least)
        return _decode(kind, data, max_pixels, shortest_side_at_least)
    except PictureError:
        raise
    except Exception as error:  # decoders fail in many ways on damaged files
        if type(error).__name__ == "DecompressionBombError":
            raise PictureTooLargeError(
                f"The {kind} picture unpacks to far more pixels than are accepted; "
                "send a smaller copy."
            ) from None
        raise _broken(kind) from None


def _unsupported(kind: str) -> str:
    if kind == JPEG_XL:
        return (
            "This is a JPEG XL picture, which needs a plug-in here; run "
            "'pip install pillow-jxl-plugin', or save it as JPEG or PNG."
        )
    kinds = [own for own in READ if own != RAW]
    return (
        f"This is {kind}, not a picture that we read; save it as one of {', '.join(kinds)}, or "
        "send a camera's raw file with a preview inside."
    )


def _broken(kind: str) -> BrokenPictureError:
    return BrokenPictureError(
        f"The {kind} picture is damaged, cut short or of a rare variety; "
        "send it again, or save it as an ordinary JPEG or PNG first."
    )


def read_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a picture file.

    Raises:
        NoPictureError: there is none, or it may not be read.
        PictureTooLargeError: it has more than `max_bytes`.
    """
    name = repr(os.fspath(path))
    try:
        # Asked before opening, which would wait without end on a pipe.
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


def _check_size(width: int, height: int, max_pixels: int, divisor: int = 1) -> None:
    if divisor > 1:
        max_pixels = min(max_pixels * divisor**2, max_pixels * REDUCED_FACTOR)
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


# Decoding


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decode(
    kind: str, data: bytes, max_pixels: int, shortest_side_at_least: int | None
) -> NDArray[np.uint8]:
    module, name = _READERS[kind]
    if kind == "TIFF" and (preview := _preview_of_tiff(data)) is not None:
        return _decode_preview(data, preview, max_pixels, shortest_side_at_least)
    if kind == "PNG":
        data = _essential_png(data)
    if kind == "WebP":  # its decoder reserves memory for all pixels at once
        _check_size(*_webp_size(data), max_pixels)
    file = _MeteredFile(data)
    with _quiet():
        image = getattr(import_module(module), name)(file)
        if kind == "TIFF":
            _check_planes(image)
        divisor = 1
        if kind == "JPEG":
            _check_scans(image, file, data)
            divisor = _divisor(image, shortest_side_at_least)
        _check_size(image.width, image.height, max_pixels, divisor)
        orientation = _orientation(image) if kind not in ("TIFF", "HEIC") else 1
        if kind not in _WITHOUT_WARNINGS:  # these warn while they load, too
            image.load()
    with image:
        image.decodermaxblock = max(image.decodermaxblock, len(data))  # in one piece: it is faster
        if divisor > 1:
            image.draft(None, (image.width // divisor, image.height // divisor))
        image.load()
        if kind == "PNG" and not _png_is_whole(image, data):
            raise _broken("PNG")
        rgb = _rgb_of(image)
        if kind in ("GIF", "WebP", "AVIF") and _is_flat(rgb):
            rgb = _later_frame(image, rgb, max_pixels)
    return _upright(rgb, orientation)


def _check_planes(image: Any) -> None:
    """Refuses what Pillow reads wrongly: colours of 16 bits in separate planes.

    Raises:
        UnsupportedPictureError: it is one of these.
    """
    tags = image.tag_v2
    if tags.get(_PLANES) == 2 and tags.get(_SAMPLES, 1) > 1 and max(tags.get(_BITS, (1,))) > 8:
        raise UnsupportedPictureError(
            "The TIFF picture keeps colours of 16 bits in separate planes, which is not read here; "
            "save it with interleaved colours or with 8 bits."
        )


def _divisor(image: Image.Image, shortest_side_at_least: int | None) -> int:
    """By what a JPEG's sides can be divided, so that the shorter one stays long enough."""
    if shortest_side_at_least is None:
        return 1
    shorter = min(image.size) // max(1, shortest_side_at_least)
    return next((divisor for divisor in (8, 4, 2) if shorter >= divisor), 1)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none or no valid one; no other metadata counts."""
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        value = exif.get(_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to refuse a picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_scans(image: Any, file: io.BytesIO, data: bytes) -> None:
    """Refuses a JPEG with scans without end. A sequential one with a single scan has one.

    Raises:
        BrokenPictureError: it has too many.
    """
    at, components = file.tell(), image.layers
    header = at - 6 - 2 * components  # of the first scan, where it holds all components
    sequential = not image.info.get("progressive")
    if sequential and data[header - 2 : header] == b"\xff\xda" and data[header + 2] == components:
        return
    if data.count(b"\xff\xda", max(0, header - 2)) >= _MAX_SCANS:
        raise _broken("JPEG")


def _essential_png(data: bytes) -> bytes:
    """A PNG without texts and colour profiles, which may be bombs of their own.

    Raises:
        BrokenPictureError: it is damaged.
    """
    kept = [data[:8]]
    names = set()
    at = 8
    try:
        for _ in range(_MAX_PIECES):
            length, name = struct.unpack_from(">I4s", data, at)
            end = at + 12 + length
            if end > len(data) or (name == b"IHDR") != (at == 8):
                raise _broken("PNG")
            if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
                if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                    raise _broken("PNG")
                kept.append(data[at:end])
                names.add(name)
            elif name == b"eXIf" and b"eXIf" not in names:
                content = data[at + 4 : end - 4]  # its own checksum may be wrong
                # Before the pixels, where it is read without them.
                kept.insert(2, data[at : end - 4] + zlib.crc32(content).to_bytes(4, "big"))
                names.add(name)
            at = end
            if name == b"IEND":
                break
    except struct.error:
        raise _broken("PNG") from None
    if b"IEND" not in names or b"IDAT" not in names:
        raise _broken("PNG")
    return b"".join(kept)


def _png_is_whole(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG has all its pixels. Pillow leaves those that are missing at 0."""
    if np.asarray(_strip(image, slice(image.height - 1, image.height))).any():
        return True
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    wanted = 0
    for left, top, right, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0:
            wanted += max(0, rows) * (1 + -(-columns * bits // 8))
    inflate, at = zlib.decompressobj(), 8
    while wanted > 0 and at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        while content and wanted > 0 and not inflate.eof:
            wanted -= len(inflate.decompress(content, _STRIP_PIXELS))
            content = inflate.unconsumed_tail
        at += 12 + length
    return wanted <= 0


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in a WebP's header."""
    first = data[12:16]
    if first == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif first == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif first == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise _broken("WebP")
    return width, height


def _is_flat(rgb: NDArray[np.uint8]) -> bool:
    sample = rgb[:: max(1, len(rgb) // 64), :: max(1, rgb.shape[1] // 64)].reshape(-1, 3)
    return bool(
        (np.ptp(sample, axis=0) <= _FLAT).all() and (np.ptp(rgb, axis=(0, 1)) <= _FLAT).all()
    )


def _later_frame(image: Any, first: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    """The first frame that is not flat, of as many as cost no more than a large picture."""
    frames = min(_MAX_FRAMES, max_pixels // max(1, image.width * image.height))
    for number in range(1, frames):
        try:
            image.seek(number)
            image.load()
        except Exception:  # the end of the animation, or of what is whole in it
            return first
        rgb = _rgb_of(image)
        if not _is_flat(rgb):
            return rgb
    return first


# A camera's raw files


class _Preview(NamedTuple):
    """Where a JPEG begins in a raw file, and its pixels; `pixels` is 0 where there is none."""

    pixels: int = 0
    at: int = 0


def _preview_of_tiff(data: bytes) -> _Preview | None:
    """What to read of a raw file that is a TIFF by its first bytes; None for an ordinary TIFF.

    The first picture in a raw file is a thumbnail, or the sensor's own data. An ordinary TIFF may
    have a camera's name and further sizes of itself, too; its first picture is the largest then.
    """
    tags = _first_directory(data)
    certain = (
        _DNG_VERSION in tags
        or data[8:10] == b"CR"
        or tags.get(_PHOTOMETRIC) in _OF_A_SENSOR
        or tags.get(_COMPRESSION) in _OF_A_MAKER
    )
    is_part = tags.get(_SUBFILE_TYPE) == 1 or not tags.get(_WIDTH)
    if not certain and not (_MAKE in tags and (is_part or _SUB_IFDS in tags)):
        return None
    preview = _largest_preview(data)
    own = 0 if is_part else tags[_WIDTH] * tags.get(_HEIGHT, 0)
    return preview if certain or preview.pixels > own else None


def _first_directory(data: bytes) -> dict[int, int]:
    """The tags in the first directory of a TIFF, with their first values where these are numbers.

    Pillow's reader refuses the directories of some raw files.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    tags: dict[int, int] = {}
    try:
        (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
        entry = struct.Struct(order + ("HHQ8s" if is_big else "HHI4s"))
        at += 8 if is_big else 2
        for number in range(min(count, 1000)):
            tag, kind, _, value = entry.unpack_from(data, at + number * entry.size)
            number_of = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}.get(kind, "")
            tags[tag] = struct.unpack_from(order + number_of, value)[0] if number_of else 0
    except struct.error:  # it ends before
        pass
    return tags


def _largest_preview(data: bytes) -> _Preview:
    """The largest JPEG inside a raw file that can be opened."""
    from PIL.JpegImagePlugin import JpegImageFile

    found = []
    left, at = _MAX_MARKERS, data.find(b"\xff\xd8\xff")
    while at >= 0 and left > 0:
        pixels, looked_at = _jpeg_pixels(data, at)
        left -= looked_at
        if pixels:
            found.append(_Preview(pixels, at))
        at = data.find(b"\xff\xd8\xff", at + 1)
    for preview in sorted(found, reverse=True)[:_MAX_PREVIEWS]:
        # The sensor's own data and chance may look like a JPEG, too.
        with contextlib.suppress(Exception), _quiet():
            JpegImageFile(io.BytesIO(data[preview.at :])).close()
            return preview
    return _Preview()


def _jpeg_pixels(data: bytes, at: int) -> tuple[int, int]:
    """How many pixels the JPEG there says it has, and how many of its parts were looked at.

    0 pixels where it is none that a program shows, such as the lossless ones of sensors.
    """
    at += 2
    for looked_at in range(1, _MAX_PARTS):
        if at + 10 > len(data) or data[at] != 0xFF:
            return 0, looked_at
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return (width * height if bits == 8 and components in (1, 3, 4) else 0), looked_at
        if marker < 0xC0 or marker in (0xC3, 0xD8, 0xD9, 0xDA):
            return 0, looked_at
        at += 2 + length
    return 0, _MAX_PARTS


def _decode_preview(
    data: bytes, preview: _Preview, max_pixels: int, shortest_side_at_least: int | None
) -> NDArray[np.uint8]:
    """The preview, turned as it says itself or else as the raw file says.

    Raises:
        BrokenPictureError: there is none.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    if not preview.pixels:
        raise BrokenPictureError(
            "The raw file has no preview that can be read; develop it to a JPEG first."
        )
    jpeg = data[preview.at :]
    with _quiet(), JpegImageFile(io.BytesIO(jpeg)) as image:
        own = _orientation(image)
        orientation = _raw_orientation(data) if own == 1 else 1
    return _upright(_decode("JPEG", jpeg, max_pixels, shortest_side_at_least), orientation)


def _raw_orientation(data: bytes) -> int:
    """The orientation in a raw file's own metadata."""
    from PIL import Image

    start = 0
    if data[4:8] == b"ftyp":  # CR3 keeps its EXIF in a box of that name
        start = data.find(b"CMT1") + 4
    header = data[start : start + 4]
    if header[:2] in (b"II", b"MM"):  # Olympus and Panasonic have magic numbers of their own
        header = b"II*\0" if header[:2] == b"II" else b"MM\0*"
    exif = Image.Exif()
    try:
        exif.load(header + data[start + 4 : start + 2_000_000])
        value = exif.get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


# Pixels


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
    if image.mode == "RGB" and not clear:
        return np.array(image)
    if clear and image.format == "BMP":  # many BMPs leave the fourth byte 0
        clear = image.getextrema()[-1] != (0, 0)
    values_of = _values_of(image) if image.mode in ("I", "F") else None
    black, white = _extremes(image, values_of) if values_of else (0.0, 0.0)
    # Pillow inverts the others.
    is_negative = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]

    def convert(rows: slice) -> NDArray[np.uint8]:
        strip = _strip(image, rows)
        if image.mode.startswith("I;16"):
            values = np.asarray(strip).astype(np.uint16, copy=False)
            grey = cv2.convertScaleAbs(values, alpha=1 / 257)
            return cv2.cvtColor(255 - grey if is_negative else grey, cv2.COLOR_GRAY2RGB)
        if values_of:
            values = np.nan_to_num(values_of(strip), nan=black, posinf=white, neginf=black)
            shades = ((values - black) * (255 / max(white - black, 1e-9))).round().astype(np.uint8)
            return cv2.cvtColor(255 - shades if is_negative else shades, cv2.COLOR_GRAY2RGB)
        if clear:
            return _on_white(np.array(strip.convert("RGBA")))
        return np.array(strip.convert("RGB"))

    return _in_strips(image.height, image.width, convert)


def _strip(image: Image.Image, rows: slice) -> Image.Image:
    return image.crop((0, rows.start, image.width, rows.stop))


def _values_of(image: Any) -> Callable[[Image.Image], NDArray[np.float64]]:
    """What reads the values of a strip of a picture of 32 bits."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    # Pillow has no mode for numbers without a sign, which are a TIFF's default.
    is_unsigned = image.mode == "I" and tags.get(_BITS) == (32,) and tags.get(_FORMAT, (1,)) == (1,)

    def values(strip: Image.Image) -> NDArray[np.float64]:
        array = np.asarray(strip)
        return (array.view(np.uint32) if is_unsigned else array).astype(np.float64)

    return values


def _extremes(
    image: Image.Image, values_of: Callable[[Image.Image], NDArray[np.float64]]
) -> tuple[float, float]:
    """The darkest and the lightest value: 32 bits have no other black and white to agree on.

    What is no number, as in the gaps of maps, does not count.
    """
    black, white = math.inf, -math.inf
    for rows in _strips(image.height, image.width):
        values = values_of(_strip(image, rows))
        values = values[np.isfinite(values)]
        if values.size:
            black, white = min(black, float(values.min())), max(white, float(values.max()))
    return (black, white) if black <= white else (0.0, 0.0)


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
