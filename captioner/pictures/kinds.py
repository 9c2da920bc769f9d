"""Kinds of files, recognised by their content. Nothing is decoded here."""

from __future__ import annotations

import re

RAW = "camera raw"
# With a reader always, and only where its plug-in is installed.
READ = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "HEIC", "AVIF", "JPEG 2000", "PPM", "TGA", RAW)
JPEG_XL = "JPEG XL"


def kind_of(data: bytes) -> str:
    """The kind of file: one of `READ`, or what else it is in words ("a PDF document")."""
    if data[-18:-1] == b"TRUEVISION-XFILE.":  # at its end; its beginning is that of an icon
        return "TGA"
    for magic, kind in _MAGIC:
        if magic.match(data):
            return kind
    if data[4:8] == b"ftyp":
        brands = data[8 : max(int.from_bytes(data[:4], "big"), 12)][:256]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if re.search(rb"hei[cxms]|hev[cxms]|mif1|msf1", brands):
            return "HEIC"
        return RAW if brands.startswith(b"crx ") else "a video"
    start = data[:2000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page"
    try:
        # The last character may be cut in two.
        text = data[:1000].decode("utf-8", errors="strict" if len(data) <= 1000 else "ignore")
    except UnicodeDecodeError:
        return "a file of an unknown kind"
    control = sum(c < " " and c not in "\t\r\n\f\x1b" for c in text)
    return "text" if text and not control and "\x7f" not in text else "a file of an unknown kind"


_MAGIC = [
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in [
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"RIFF.{4}WEBP", "WebP"),
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{4}.{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", "BMP"),
        (rb"II[*+]\x00|MM\x00[*+]", "TIFF"),
        # Olympus, Panasonic, Fujifilm; most others are TIFF by their first bytes.
        (rb"IIR[OS]|MMOR|IIU\x00|FUJIFILMCCD-RAW", RAW),
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", JPEG_XL),
        (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"P[1-6][\s#]", "PPM"),
        (rb"8BPS", "a Photoshop file"),
        (rb"\x00\x00[\x01\x02]\x00", "an icon"),
        (rb"%PDF", "a PDF document"),
        (rb"PK\x03\x04", "a ZIP archive or an office document"),
        (rb"\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video"),
    ]
]
