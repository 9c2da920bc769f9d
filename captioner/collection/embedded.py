"""Reads the words that a person left inside a picture file: EXIF, IPTC, XMP, comments.

Pillow reads the containers, and only their headers. A file that cannot be read has no words here;
reading its pixels will say what is wrong with it.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from captioner.collection.xmp import Xmp, XmpError

_IMAGE_DESCRIPTION, _USER_COMMENT, _XP_COMMENT, _XP_SUBJECT = 0x010E, 0x9286, 0x9C9C, 0x9C9F
_EXIF_IFD = 0x8769
_CAPTION_ABSTRACT = (2, 120)
_PNG_TEXTS = ("Description", "Comment")
# What cameras and programs write into these fields by themselves.
_NO_WORDS = re.compile(
    r"(olympus|minolta|sony|kodak|samsung|nikon|casio|konica)?\s*(digital|dsc|still)?\s*camera"
    r"|sony dsc|dcim?\d*|screenshot|default|untitled|<.*>"
    r"|(creator: gd-jpeg|lead technologies|file written by|created with|compressed by|optimized"
    r"|jpeg encoder|lavc|applemark|intel\(r\)|handmade software|processed by|ascii|charset=).*",
    re.IGNORECASE | re.DOTALL,
)
_RAW_SCAN = 1_000_000  # bytes of a camera's raw file that are searched for an XMP packet


def words_in(picture: Path) -> tuple[str, str] | None:
    """A field with a person's words in a picture file, and the words; None where there are none."""
    for field, text in _texts(picture):
        text = text.replace("\0", " ").strip()
        if text and not _NO_WORDS.fullmatch(text):
            return field, text
    return None


def _texts(picture: Path) -> list[tuple[str, str]]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(picture) as image:
                return [*_of_exif(image.getexif()), *_of_info(image), *_of_iptc(image)]
    except Exception:  # damaged files fail in many ways
        return _of_raw(picture)


def _of_exif(exif: Any) -> list[tuple[str, str]]:
    found = [
        ("EXIF ImageDescription", _utf8(exif.get(_IMAGE_DESCRIPTION))),
        ("EXIF XPComment", _utf16(exif.get(_XP_COMMENT))),
        ("EXIF XPSubject", _utf16(exif.get(_XP_SUBJECT))),
    ]
    comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if isinstance(comment, bytes):
        charset, content = comment[:8], comment[8:]
        text = _utf16(content) if charset.startswith(b"UNICODE") else _decoded(content)
        found.append(("EXIF UserComment", text))
    elif isinstance(comment, str):
        found.append(("EXIF UserComment", _utf8(comment)))
    return found


def _of_info(image: Any) -> list[tuple[str, str]]:
    info = image.info
    found = [("comment", _decoded(info.get("comment")))]
    found += [(f"PNG {name}", _decoded(info.get(name))) for name in _PNG_TEXTS]
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or ""
    if not packet and hasattr(image, "tag_v2"):
        packet = image.tag_v2.get(700, "")
    packet = packet.encode() if isinstance(packet, str) else bytes(packet)
    return found + _of_packet(packet)


def _of_packet(packet: bytes) -> list[tuple[str, str]]:
    if not packet.strip(b"\0 \r\n\t"):
        return []
    try:
        words = Xmp(packet.strip(b"\0 \r\n\t")).person_words()
    except XmpError:
        return []
    return [(f"XMP {words[0]}", words[1])] if words else []


def _of_iptc(image: Any) -> list[tuple[str, str]]:
    from PIL import IptcImagePlugin

    entries: Any = IptcImagePlugin.getiptcinfo(image) or {}
    value = entries.get(_CAPTION_ABSTRACT)
    value = value[0] if isinstance(value, list) and value else value
    return [("IPTC Caption-Abstract", _decoded(value))]


def _of_raw(picture: Path) -> list[tuple[str, str]]:
    """A file that Pillow does not open: EXIF of a TIFF-like file, and an XMP packet as text."""
    from PIL import Image

    found: list[tuple[str, str]] = []
    try:
        with picture.open("rb") as file:
            start = file.read(_RAW_SCAN)
            if begun := re.search(rb"<x:xmpmeta.*?</x:xmpmeta>", start, re.DOTALL):
                found += _of_packet(begun[0])
            if start[:4] in (b"II*\0", b"MM\0*"):
                file.seek(0)
                exif = Image.Exif()
                exif.load_from_fp(file)
                found += _of_exif(exif)
    except Exception:  # as above
        return found
    return found


def _decoded(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _utf8(value: Any) -> str:
    """A text of EXIF, which Pillow reads as Latin-1, and which most programs write as UTF-8."""
    return _decoded(value.encode("latin-1", "replace") if isinstance(value, str) else value)


def _utf16(value: Any) -> str:
    if isinstance(value, bytes):
        order = "utf-16-be" if value[:1] == b"\0" else "utf-16-le"
        return value.decode(order, "ignore")
    return value if isinstance(value, str) else ""
