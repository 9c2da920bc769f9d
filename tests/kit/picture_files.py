"""Makes picture files for tests, by a library or by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pillow_heif
from PIL import Image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes; for "HEIF" with the encoder of pillow-heif."""
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes | None = None) -> bytes:
    """A grey PNG of the given size, made by hand, with `chunks` before its pixels."""
    pixels = zlib.compress(bytes((width + 1) * height)) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in every)


def tiff(*entries: tuple[int, int, int, int], rest: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; `entries` are (tag, type, count, value)."""
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *e) for e in entries
    )
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + rest


GREY_8X8 = [
    (256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
    (273, 4, 1, 0), (277, 3, 1, 1), (278, 3, 1, 8), (279, 4, 1, 64),
]  # fmt: skip


def progressive_jpeg(width: int, height: int, scans: int) -> bytes:
    """A grey JPEG in which `scans` scans, each of a few bytes, refine nothing at all."""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    quantisation = b"\xff\xdb\0\x43\0" + b"\x10" * 64
    # Huffman tables of one code each, a single 0: "no change", and "2^14 to 2^15 - 1 blocks are
    # empty" with the 14 bits that say how many more than 2^14.
    one_code = b"\1" + bytes(15)
    tables = b"\xff\xc4\0\x14\0" + one_code + b"\0" + b"\xff\xc4\0\x14\x10" + one_code + b"\xe0"
    blocks = -(-width // 8) * -(-height // 8)
    first = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(-(-blocks // 8))
    bits = ("0" + "1" * 14) * -(-blocks // (2**15 - 1))
    bits += "1" * (-len(bits) % 8)
    empty = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    further = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + empty.replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + quantisation + frame + tables + first + further * scans + b"\xff\xd9"


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of 256 shades whose pixels are coded as run lengths."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    offset = 14 + len(head) + 4 * 256
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    start = b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset)
    return start + head + palette + runs
