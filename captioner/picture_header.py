"""What the first bytes of a picture file say: its kind, its size, and which way is up.

Pure functions over bytes, without any decoder: limits are checked on what they return before a
decoder sees a byte. They cover the kinds that OpenCV decodes here (JPEG, PNG, WebP). They do not
read pixels, and of the metadata only EXIF's orientation.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from captioner.errors import BrokenPictureError

READ = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")

# More pieces than any camera or editor writes: a file of nothing but empty pieces costs no time.
_MAX_PIECES = 100_000
# Encoders write about ten scans into a progressive JPEG. For each of them the decoder goes through
# the whole picture, though it may have but 76 bytes: 20 MB of those would keep it busy for hours.
_MAX_SCANS = 200


class Header(NamedTuple):
    """What a picture file says of itself.

    `orientation` is EXIF's, 1 to 8 (CIPA DC-008, tag 0x0112): 1 is upright. `pixels` is the file as
    a decoder needs it. `grey_key`: a grey picture in which one shade stands for transparent.
    """

    width: int
    height: int
    orientation: int
    pixels: bytes
    grey_key: bool = False


def kind_of(data: bytes) -> str:
    """The kind of file: one of READ, or what else it is in words ("a PDF document")."""
    for magic, kind in _MAGIC:
        if magic.match(data):
            return kind
    if data[4:8] == b"ftyp":
        brands = data[8 : max(int.from_bytes(data[:4], "big"), 12)][:256]
        if b"avif" in brands or b"avis" in brands:
            return "an AVIF picture"
        if re.search(rb"hei[cxms]|hev[cxms]|mif1|msf1", brands):
            return "a HEIC picture"
        return "a video"
    start = data[:2000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page"
    try:
        # The last character may be cut in two.
        text = data[:1000].decode("utf-8", errors="strict" if len(data) <= 1000 else "ignore")
    except UnicodeDecodeError:
        return "something else"
    control = sum(c < " " and c not in "\t\r\n\f\x1b" for c in text)
    return "text" if text and not control and "\x7f" not in text else "something else"


def read_header(kind: str, data: bytes) -> Header:
    """The header of a JPEG, PNG or WebP file; raises BrokenPictureError."""
    try:
        return _READERS[kind](data)
    except (struct.error, IndexError):
        raise broken(kind) from None


def broken(kind: str) -> BrokenPictureError:
    return BrokenPictureError(
        f"The {kind} picture is damaged, cut short or of a rare variety; "
        "send it again, or save it as an ordinary JPEG or PNG first."
    )


_MAGIC = [
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in [
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"RIFF.{4}WEBP", "WebP"),
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{4}.{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", "BMP"),
        (rb"II[*+]\x00|MM\x00[*+]", "TIFF"),
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
        (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
        (rb"8BPS", "a Photoshop file"),
        (rb"\x00\x00[\x01\x02]\x00", "an icon"),
        (rb"%PDF", "a PDF document"),
        (rb"PK\x03\x04", "a ZIP archive or an office document"),
        (rb"\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video"),
    ]
]


# The first 0xFF that is neither stuffed (FF 00) nor a fill byte (FF FF), as libjpeg looks for it.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _read_jpeg(data: bytes) -> Header:
    size = None
    exif = b""
    one_scan_of = 0  # components that a single scan has to hold
    at = 2
    for _ in range(_MAX_PIECES):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            break
        at, marker = found.end(), found[1][0]
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these stand alone
            continue
        if marker in (0xD8, 0xD9, 0xDA):  # the scan begins, or nothing comes that could
            if data[at + 2] != one_scan_of and data.count(b"\xff\xda", at) >= _MAX_SCANS:
                raise broken("JPEG")
            break
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _JPEG_FRAMES and size is None:
            size = struct.unpack_from(">HH", data, at + 3)
            if marker in (0xC0, 0xC1, 0xC9):  # sequential: no decoder looks for a second scan
                one_scan_of = data[at + 7]
        elif marker == 0xE1 and not exif and data[at + 2 : at + 8] == b"Exif\0\0":
            exif = data[at + 8 : at + length]
        at += max(length, 2)
    if size is None or 0 in size:
        raise broken("JPEG")
    height, width = size
    return Header(width, height, _orientation(exif), data)


def _read_png(data: bytes) -> Header:
    width, height, _depth, colour_type = struct.unpack_from(">IIBB", data, 16)
    kept = [data[:8]]
    names = set()
    orientation = 1
    at = 8
    for _ in range(_MAX_PIECES):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or (name == b"IHDR") != (at == 8):
            raise broken("PNG")
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise broken("PNG")
            # Colour profiles and texts, which may be bombs of their own, reach no decoder.
            kept.append(data[at:end])
            names.add(name)
        elif name == b"eXIf":
            orientation = _orientation(data[at + 8 : end - 4])
        at = end
        if name == b"IEND":
            break
    if b"IEND" not in names or b"IDAT" not in names or not width or not height:
        raise broken("PNG")
    grey_key = colour_type == 0 and b"tRNS" in names
    return Header(width, height, orientation, b"".join(kept), grey_key)


def _read_webp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    first = data[12:16]
    orientation = 1
    if 8 + length > len(data):
        raise broken("WebP")
    if first == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        at = 12
        for _ in range(_MAX_PIECES if data[20] & 0x08 else 0):  # the flag: there is EXIF
            name, length = struct.unpack_from("<4sI", data, at)
            if name == b"EXIF":
                orientation = _orientation(data[at + 8 : at + 8 + length])
                break
            at += 8 + length + length % 2
    elif first == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif first == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise broken("WebP")
    return Header(width, height, orientation, data)


def _orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 where there is none or no valid one."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for i in range(entries):
            tag, unit, _, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * i)
            if tag == 0x0112:
                return value if unit == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # damaged metadata is no reason to refuse a picture
    return 1


_READERS = {"JPEG": _read_jpeg, "PNG": _read_png, "WebP": _read_webp}
