"""Hostile and strange picture files."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

from tests.hostile import Case
from tests.kit.picture_files import (
    GREY_8X8,
    png,
    png_chunk,
    progressive_jpeg,
    rle_bmp,
    saved,
    tiff,
)

FINE = frozenset({200})
REFUSED = frozenset({413, 415, 422})
TOO_LARGE = frozenset({413})
NO_PICTURE = frozenset({415})
BROKEN = frozenset({422})
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
TIFF_MODES = ("1", "L", "P", "CMYK", "YCbCr", "LAB", "I")
MB = 2**20


@cache
def originals() -> dict[str, bytes]:
    """Real photos of scikit-image, 96 x 64, in every kind and variety that has code of its own."""
    rgb = Image.fromarray(skimage.data.astronaut()[20:276, 120:504]).resize((96, 64))
    other = Image.fromarray(skimage.data.chelsea()).resize((96, 64))
    rgba = rgb.convert("RGBA")
    rgba.putalpha(other.convert("L"))
    sixteen_bits = Image.fromarray(np.asarray(other.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a photo"
    frames: dict[str, Any] = {"save_all": True, "append_images": [other], "duration": 100}
    made: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("jpeg", rgb, "JPEG", {"exif": exif}),
        ("jpeg progressive", rgb, "JPEG", {"progressive": True}),
        ("jpeg grey", rgb.convert("L"), "JPEG", {"restart_marker_blocks": 4}),
        ("jpeg cmyk", rgb.convert("CMYK"), "JPEG", {}),
        ("png", rgb, "PNG", {"exif": exif}),
        ("png alpha", rgba, "PNG", {}),
        ("png palette", rgb.quantize(16), "PNG", {"transparency": 3}),
        ("png grey key", rgb.convert("L"), "PNG", {"transparency": 90}),
        ("png 16 bits", sixteen_bits, "PNG", {}),
        ("webp", rgb, "WEBP", {"exif": exif}),
        ("webp lossless", rgba, "WEBP", {"lossless": True}),
        ("webp animated", rgb, "WEBP", frames),
        ("gif", rgb, "GIF", {}),
        ("gif animated", rgb.quantize(32), "GIF", {**frames, "transparency": 1, "disposal": 2}),
        ("bmp", rgb, "BMP", {}),
        ("bmp palette", rgb.quantize(16), "BMP", {}),
        ("bmp alpha", rgba, "BMP", {}),
        ("heic", rgb, "HEIF", {"exif": exif.tobytes()}),
        ("avif", rgb, "AVIF", {"exif": exif}),
        ("jpeg 2000", rgb, "JPEG2000", {}),
        ("ppm", rgb, "PPM", {}),
        ("tga", rgb, "TGA", {}),
        ("tiff", rgb, "TIFF", {}),
        ("tiff lzw", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff deflate alpha", rgba, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("tiff jpeg", rgb, "TIFF", {"compression": "jpeg"}),
        ("tiff fax", rgb.convert("1"), "TIFF", {"compression": "group4"}),
        ("tiff packbits cmyk", rgb.convert("CMYK"), "TIFF", {"compression": "packbits"}),
        ("tiff float", rgb.convert("F"), "TIFF", {}),
        ("tiff big", rgb, "TIFF", {"big_tiff": True}),
    ]  # fmt: skip
    return {name: saved(image, kind, **options) for name, image, kind, options in made}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with a few bytes changed, as often as not among the first 64, and perhaps cut."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(min(len(data), chance.choice([64, len(data)])))
        changed[at] = chance.choice([0, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    if chance.random() < 0.2:
        del changed[chance.randrange(len(changed)) :]
    return bytes(changed)


def _cut() -> Iterator[Case]:
    for name, data in originals().items():
        for tenths in (1, 5, 9):
            length = len(data) * tenths // 10
            # of an animation the first frame may be whole
            statuses = BROKEN | FINE if "animated" in name else BROKEN
            if name == "tga":  # its mark is at its end
                statuses = NO_PICTURE
            yield Case("cut short", f"{name} at {length}", data[:length], statuses)
        for length in (2, 12, 20):
            yield Case("cut short", f"{name} at {length}", data[:length], BROKEN | NO_PICTURE)
        statuses = NO_PICTURE if name == "tga" else BROKEN | FINE
        yield Case("cut short", f"{name} less 1", data[:-1], statuses)


def _flipped() -> Iterator[Case]:
    for name, data in originals().items():
        for seed in range(6):
            chance = random.Random(f"{name} {seed}")
            yield Case("flipped", f"{name}, seed {seed}", mutated(data, chance), REFUSED | FINE)
    data = originals()["jpeg"]
    yield Case("flipped", "backwards", data[::-1], NO_PICTURE)
    yield Case(
        "flipped",
        "noise after its first bytes",
        data[:3] + random.Random(0).randbytes(50_000),
        REFUSED,
    )
    yield Case("flipped", "no bytes but FF", data[:3] + b"\xff" * 1_000_000, BROKEN)
    yield Case("flipped", "line ends changed", data.replace(b"\n", b"\r\n"), BROKEN | FINE)
    yield Case("flipped", "decoded as text", data.decode("latin-1").encode(), NO_PICTURE)


def _bombs() -> Iterator[Case]:
    """Small files that would unpack to very much."""

    def bomb(name: str, data: bytes, statuses: frozenset[int] = TOO_LARGE) -> Case:
        return Case("bomb", name, data, statuses)

    grey = Image.new("L", (8, 8))
    rows = zlib.compress(bytes(50_001 * 400))  # of 50,000
    yield bomb("png 50,000 x 50,000", png(50_000, 50_000, data=rows))
    yield bomb("png 2^31 x 2^31", png(2**31 - 1, 2**31 - 1, data=rows))
    yield bomb("png 2^32 x 2^32", png(2**32 - 1, 2**32 - 1, data=rows))
    yield bomb("png 1 x 2^31", png(1, 2**31 - 1, data=rows))
    yield bomb("png 70,000 x 1", png(70_000, 1))
    yield bomb(
        "png with more rows than it says", png(8, 8, data=zlib.compress(bytes(50 * MB))), FINE
    )
    yield bomb("png with a colour profile of 200 MB", png(8, 8, _profile(200 * MB)), FINE)
    yield bomb("png with twenty texts of 50 MB", png(8, 8, *_texts(20, 50 * MB)), FINE)
    yield bomb(
        "png with a million frames", png(8, 8, (b"acTL", struct.pack(">II", 10**6, 0))), FINE
    )

    data = bytearray(saved(grey, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    for height, width in ((65_500, 65_500), (65_535, 65_535), (14_143, 14_143)):
        data[at : at + 4] = struct.pack(">HH", height, width)
        yield bomb(f"jpeg {width} x {height}", bytes(data))
    data[at : at + 4] = struct.pack(">HH", 14_000, 14_000)
    yield bomb("jpeg 14,000 x 14,000, and 8 x 8 in it", bytes(data), BROKEN | FINE)

    data = bytearray(saved(grey, "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield bomb("gif with a screen of 65,535 x 65,535", bytes(data))
    data[6:10] = struct.pack("<HH", 8, 8)
    at = data.index(b"\x2c\0\0\0\0") + 5
    for side in (9_000, 20_000, 65_535):
        data[at : at + 4] = struct.pack("<HH", side, side)
        yield bomb(f"gif with a frame of {side} x {side}", bytes(data))

    data = bytearray(saved(grey, "WEBP"))
    at = data.index(b"\x9d\x01\x2a") + 3
    data[at : at + 4] = struct.pack("<HH", 16_383, 16_383)
    yield bomb("webp 16,383 x 16,383", bytes(data))
    for side in (2**14, 2**24):
        canvas = (side - 1).to_bytes(3, "little") * 2
        data = bytearray(originals()["webp animated"])
        data[24:30] = canvas
        yield bomb(f"webp with a canvas of {side} x {side}", bytes(data))

    for size in ((60_000, -60_000), (2**31 - 1, 2**31 - 1), (20_000, 10_000)):
        data = bytearray(saved(grey, "BMP"))
        data[18:26] = struct.pack("<ii", *size)
        yield bomb(f"bmp {size}", bytes(data), TOO_LARGE | BROKEN)
    yield bomb("bmp of runs, 60,000 x 60,000", rle_bmp(60_000, 60_000, b"\xff\0" * 1000))

    def changed(*entries: tuple[int, int, int, int]) -> bytes:
        tags = {entry[0]: entry for entry in (*GREY_8X8, *entries)}
        return tiff(*(tags[tag] for tag in sorted(tags)), rest=bytes(64))

    yield bomb("tiff 60,000 x 60,000", changed((256, 4, 1, 60_000), (257, 4, 1, 60_000)))
    yield bomb("tiff 2^32 x 2^32", changed((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1)))
    tiles = [(322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8), (325, 4, 1, 64)]
    yield bomb("tiff with giant tiles", changed(*tiles), BROKEN | FINE)
    yield bomb("tiff with giant deflated tiles", changed((259, 3, 1, 8), *tiles), BROKEN)
    yield bomb("tiff of a strip with 2^32 rows", changed((278, 4, 1, 2**32 - 1)), BROKEN | FINE)
    yield bomb("tiff of 60,000 samples", changed((277, 3, 1, 60_000)), BROKEN)


def _heavy() -> Iterator[Case]:
    """Files that are within the limits, and would take very long to read."""

    def heavy(name: str, data: bytes, statuses: frozenset[int] = BROKEN) -> Case:
        return Case("heavy", name, data, statuses)

    yield heavy("jpeg of a quarter of a million scans", progressive_jpeg(7_000, 7_000, 250_000))
    yield heavy("bmp of ten million runs", rle_bmp(7_000, 7_000, b"\1\0" * (9 * MB)))
    gif = originals()["gif"]
    start = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    yield heavy(
        "gif with ten million bytes between blocks", gif[:start] + bytes([1]) * 10**7 + gif[start:]
    )
    comment = b"\x21\xfe" + b"\1a" * (9 * MB) + b"\0"
    yield heavy("gif with a comment in ten million pieces", gif[:start] + comment + gif[start:])
    yield heavy("png of 200,000 chunks", png(8, 8, *[(b"tEXt", b"")] * 200_000))
    yield heavy("jpeg of 200,000 comments", b"\xff\xd8" + b"\xff\xfe\0\2" * 200_000)
    tags = {entry[0]: entry for entry in GREY_8X8} | {282: (282, 5, 10**6, 200)}
    numbers = tiff(*(tags[tag] for tag in sorted(tags)), rest=bytes(8 * MB))
    yield heavy("tiff with a million resolutions", numbers, BROKEN | FINE)
    many = [(tag, 1, 10**6, 8) for tag in range(1000, 1300)]
    yield heavy(
        "tiff with 300 tags for the same bytes",
        tiff(*GREY_8X8, *many, rest=bytes(10**6)),
        BROKEN | FINE,
    )


def _largest() -> Iterator[Case]:
    """What is just accepted, in the kinds that take the most memory."""
    side = 7_071  # squared, just below 50 megapixels
    yield Case("largest", "png of 4 x 16 bits", _png_of_nothing(side, 16, 6), FINE)
    floats = zlib.compress(bytes(side * side * 4))
    largest = [
        (256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 32), (259, 3, 1, 8), (262, 3, 1, 1),
        (273, 4, 1, 0), (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, len(floats)),
        (339, 3, 1, 3),
    ]  # fmt: skip
    largest[5] = (273, 4, 1, len(tiff(*largest)))
    yield Case("largest", "tiff of floats", tiff(*largest, rest=floats), FINE)


def _mismatched() -> Iterator[Case]:
    """Files whose headers do not match their content, or each other."""

    def mismatched(name: str, data: bytes, statuses: frozenset[int]) -> Case:
        return Case("mismatched", name, data, statuses)

    kinds = originals()
    jpeg = kinds["jpeg"]
    frame = jpeg.index(b"\xff\xc0")
    for name, at, value in (
        ("no height", 5, b"\0\0"),
        ("no width", 7, b"\0\0"),
        ("12 bits", 4, b"\x0c"),
        ("255 components", 9, b"\xff"),
        ("a frame of 65,535 bytes", 2, b"\xff\xff"),
        ("a frame of no bytes", 2, b"\0\0"),
        ("lossless", 1, b"\xc3"),
        ("arithmetic", 1, b"\xc9"),
    ):
        data = bytearray(jpeg)
        data[frame + at : frame + at + len(value)] = value
        yield mismatched(f"jpeg, {name}", bytes(data), BROKEN | FINE)
    second = jpeg[frame : frame + 19].replace(struct.pack(">HH", 64, 96), b"\xff\xff\xff\xff")
    yield mismatched("jpeg of two frames", jpeg[:frame] + second + jpeg[frame:], REFUSED)
    yield mismatched(
        "jpeg of two frames, the larger second",
        jpeg[: frame + 19] + second + jpeg[frame + 19 :],
        REFUSED,
    )
    yield mismatched("jpeg in a jpeg", jpeg[:2] + jpeg[2:] + jpeg, FINE)
    yield mismatched("jpeg that ends at once", b"\xff\xd8\xff\xd9" + jpeg, BROKEN | FINE)
    for sides in ((97, 64), (96, 65), (1, 1), (0, 64), (960, 640)):
        header = struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0)
        changed = kinds["png"][:8] + png_chunk(b"IHDR", header) + kinds["png"][33:]
        yield mismatched(f"png of 96 x 64 that says {sides}", changed, BROKEN | FINE)
    for depth, colour in ((3, 2), (16, 3), (8, 1), (8, 7), (255, 255)):
        header = struct.pack(">IIBBBBB", 96, 64, depth, colour, 0, 0, 0)
        changed = kinds["png"][:8] + png_chunk(b"IHDR", header) + kinds["png"][33:]
        yield mismatched(f"png of {depth} bits, colour type {colour}", changed, BROKEN)
    yield mismatched("png without pixels", png(8, 8, data=b""), BROKEN)
    yield mismatched("png of two headers", png(8, 8, (b"IHDR", bytes(13))), BROKEN)
    yield mismatched("png with a chunk of 4 GB", png(8, 8)[:33] + b"\xff\xff\xff\xffIDAT", BROKEN)
    yield mismatched("webp that is longer than it says", kinds["webp"] + b"x" * 1000, FINE)
    for size in (0, 4, 2**31, 2**32 - 1):
        data = bytearray(kinds["webp"])
        data[4:8] = struct.pack("<I", size)
        yield mismatched(f"webp of {size} bytes", bytes(data), BROKEN | FINE)
    for offset in (0, 1, 9, 2**31, 2**32 - 1):
        data = bytearray(kinds["tiff"])
        data[4:8] = struct.pack("<I", offset)
        yield mismatched(f"tiff with its directory at {offset}", bytes(data), BROKEN)
    entries = struct.pack("<H", 1) + struct.pack("<HHII", 256, 3, 1, 8)
    yield mismatched(
        "tiff whose directory follows itself", b"II*\0\x08\0\0\0" + entries + b"\x08\0\0\0", BROKEN
    )
    for compression in (0, 2, 3, 6, 7, 50_000, 50_001, 34_712, 65_535):
        tags = {entry[0]: entry for entry in GREY_8X8} | {259: (259, 3, 1, compression)}
        changed = tiff(*(tags[tag] for tag in sorted(tags)), rest=bytes(64))
        yield mismatched(f"tiff, compression {compression}", changed, BROKEN | FINE)
    for depth in (0, 2, 3, 24, 64):
        data = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
        data[28:30] = struct.pack("<H", depth)
        yield mismatched(f"bmp of {depth} bits", bytes(data), BROKEN | FINE)


def _others() -> Iterator[Case]:
    """What is no picture that we read, under the name of one."""
    empty = frozenset({400})
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + random.Random(1).randbytes(5_000)
    svg = (
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
    )
    entities = (
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + svg
    )
    deep = b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
    for name, data, statuses in (
        ("nothing", b"", empty),
        ("a byte", b"\0", NO_PICTURE),
        ("zeros", bytes(100_000), NO_PICTURE),
        ("noise", random.Random(0).randbytes(100_000), NO_PICTURE),
        ("text", b"hello " * 1000, NO_PICTURE),
        ("svg", svg, NO_PICTURE),
        ("svg with entities", entities, NO_PICTURE),
        ("xml that explodes", deep, NO_PICTURE),
        ("html", b"<!DOCTYPE html><script>alert(1)</script>", NO_PICTURE),
        ("php", b"<?php system($_GET['c']); ?>", NO_PICTURE),
        ("a shell script", b"#!/bin/sh\nrm -rf ~\n", NO_PICTURE),
        ("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", NO_PICTURE),
        ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file\n", NO_PICTURE),
        ("elf", b"\x7fELF\2\1\1" + bytes(100), NO_PICTURE),
        ("exe", b"MZ\x90\0" + bytes(100), NO_PICTURE),
        ("java", b"\xca\xfe\xba\xbe" + bytes(100), NO_PICTURE),
        ("zip", b"PK\3\4" + bytes(100), NO_PICTURE),
        ("gzip", b"\x1f\x8b\x08" + bytes(100), NO_PICTURE),
        ("pickle", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.", NO_PICTURE),
        ("heic", heic, BROKEN),
        ("avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", BROKEN),
        ("jpeg xl", b"\xff\x0a\xfa\x1f", NO_PICTURE),
        ("jpeg 2000", b"\0\0\0\x0cjP  \r\n\x87\n", BROKEN),
        ("photoshop", b"8BPS\0\1" + bytes(50), NO_PICTURE),
        ("icon", b"\0\0\1\0\1\0\x10\x10", NO_PICTURE),
        ("video", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", NO_PICTURE),
        ("sgi", b"\x01\xda\1\1\0\2" + bytes(600), NO_PICTURE),
        ("ppm", b"P6 99999 99999 255\n", TOO_LARGE),
        ("pcx", b"\x0a\5\1\x08" + bytes(200), NO_PICTURE),
        ("tga", b"\0\0\2" + bytes(9) + b"\xff\xff\xff\xff\x18\0", NO_PICTURE),
        ("hdf", b"\x89HDF\r\n\x1a\n" + bytes(100), NO_PICTURE),
        ("openexr", b"v/1\x01\2\0\0\0" + bytes(100), NO_PICTURE),
        ("radiance", b"#?RADIANCE\n\n-Y 99999 +X 99999\n", NO_PICTURE),
        ("fits", b"SIMPLE  =                    T" + b" " * 50, NO_PICTURE),
        ("dicom", bytes(128) + b"DICM", NO_PICTURE),
        ("mjpeg", b"RIFF\0\0\0\0AVI LIST", NO_PICTURE),
        ("wave", b"RIFF\0\0\0\0WAVEfmt ", NO_PICTURE),
        ("jpeg as base64", b"data:image/jpeg;base64,/9j/4AAQSkZJRg==", NO_PICTURE),
        ("a file of 21 MB", b"\xff\xd8\xff" + bytes(21 * MB), TOO_LARGE),
    ):
        yield Case("no picture", name, data, statuses)


def _polyglots() -> Iterator[Case]:
    """Pictures that are something else too; they are read as pictures, and come back as pixels."""
    kinds = originals()
    script = b"<script>alert(document.domain)</script>"
    marker = b"\xff\xfe" + struct.pack(">H", len(script) + 2) + script
    jpeg, gif, bmp = kinds["jpeg"], kinds["gif"], kinds["bmp"]
    start = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    block = b"\x21\xfe" + bytes([len(script)]) + script + b"\0"
    for name, data, statuses in (
        ("jpeg and zip", jpeg + b"PK\3\4" + bytes(30) + b"PK\5\6" + bytes(18), FINE),
        ("jpeg and html", jpeg[:2] + marker + jpeg[2:], FINE),
        ("jpeg and php", jpeg + b"<?php phpinfo(); ?>", FINE),
        ("jpeg and pdf", jpeg[:2] + marker.replace(b"<script", b"%PDF-1.") + jpeg[2:], FINE),
        ("gif and html", gif[:start] + block + gif[start:], FINE),
        ("gif and javascript", gif[:6] + b"/*" + gif[8:] + b"*/=1;alert(1)", FINE | REFUSED),
        ("png and html", png(8, 8, (b"tEXt", b"Comment\0" + script)) + script, FINE),
        ("bmp and javascript", bmp[:2] + b"/*" + bmp[4:] + b"*/=1;alert(1)", FINE),
        ("webp and html", kinds["webp"] + script, FINE),
        ("tiff and zip", kinds["tiff"] + b"PK\5\6" + bytes(18), FINE),
        ("pdf and jpeg", b"%PDF-1.7\n" + jpeg, NO_PICTURE),
        ("html and jpeg", b"<html>" + jpeg, NO_PICTURE),
        ("zip and jpeg", b"PK\3\4" + jpeg, NO_PICTURE),
    ):
        yield Case("polyglot", name, data, statuses)


def _metadata() -> Iterator[Case]:
    """Sound pixels with hostile metadata: it is dropped, and the picture is captioned."""
    picture = originals()["jpeg"]

    def exif(name: str, body: bytes) -> Case:
        piece = b"Exif\0\0" + body
        segment = b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece
        return Case("metadata", name, picture[:2] + segment + picture[2:], FINE)

    def directory(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
        packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return (
            b"II*\0\x08\0\0\0"
            + struct.pack("<H", len(entries))
            + packed
            + struct.pack("<I", following)
        )

    yield exif("exif whose directory follows itself", directory((0x0112, 3, 1, 1), following=8))
    yield exif("exif in exif without end", directory((0x8769, 4, 1, 8), (0x0112, 3, 1, 1)))
    yield exif("exif of 65,535 entries", directory()[:8] + b"\xff\xff" + bytes(60_000))
    yield exif("exif beyond its end", directory((0x0112, 3, 2**31, 2**32 - 1)))
    yield exif("exif at 2^32", b"II*\0\xff\xff\xff\xff")
    yield exif("exif, orientation 9", directory((0x0112, 3, 1, 9)))
    yield exif("exif, orientation 0", directory((0x0112, 3, 1, 0)))
    yield exif("exif, orientation of 2^31 numbers", directory((0x0112, 3, 2**31, 6)))
    yield exif("exif that is none", b"XX" + bytes(500))
    yield exif(
        "exif with a thumbnail beyond all",
        directory((0x0201, 4, 1, 2**32 - 1), (0x0202, 4, 1, 2**32 - 1)),
    )
    yield exif("exif with a place", directory((0x8825, 4, 1, 8)))
    yield exif("exif of html", directory((0x010E, 2, 4, int.from_bytes(b"<b>\0", "little"))))
    for name, segment in (
        ("a profile in 255 parts, and one part is there", b"ICC_PROFILE\0\1\xff" + bytes(60_000)),
        ("a part 9 of 1 of a profile", b"ICC_PROFILE\0\x09\1" + bytes(100)),
    ):
        piece = b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment
        yield Case("metadata", name, picture[:2] + piece + picture[2:], FINE)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>"
    piece = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    yield Case("metadata", "xmp with entities", picture[:2] + piece + picture[2:], FINE)
    yield Case(
        "metadata",
        "a hundred segments",
        picture[:2] + (b"\xff\xed\xff\xff" + bytes(65_533)) * 100 + picture[2:],
        FINE,
    )
    for name, chunk in (
        ("gamma of 0", (b"gAMA", bytes(4))),
        ("whites at infinity", (b"cHRM", b"\xff" * 32)),
        ("a time that is none", (b"tIME", b"\xff" * 7)),
        ("a profile that is none", (b"iCCP", b"x\0\0nonsense")),
        ("a text that does not unpack", (b"zTXt", b"x\0\0nonsense")),
        ("an exif that is none", (b"eXIf", b"nonsense")),
        ("a background of the wrong size", (b"bKGD", b"\xff" * 50)),
        ("a histogram without palette", (b"hIST", b"\xff" * 512)),
        ("an unknown chunk that matters", (b"ABCD", b"\xff" * 50)),
    ):
        yield Case("metadata", f"png with {name}", png(8, 8, chunk), FINE)


def _strange() -> Iterator[Case]:
    """Rare, and right: these are captioned."""
    for name, data in originals().items():
        yield Case("strange", name, data, FINE)
    photo = Image.fromarray(skimage.data.astronaut()).resize((96, 64))
    grey = photo.convert("L")
    numbers = np.asarray(grey)
    holes = numbers.astype(np.float32)
    holes[:8], holes[8:16], holes[16:24] = np.nan, np.inf, -np.inf
    made = [
        *((f"tiff {mode}", _dated(photo.convert(mode)), "TIFF") for mode in TIFF_MODES),
        *((f"png {mode}", photo.convert(mode), "PNG") for mode in ("1", "L", "LA", "P")),
        *((f"jpeg {mode}", photo.convert(mode), "JPEG") for mode in ("L", "CMYK")),
        *((f"{kind} of a pixel", Image.new("RGB", (1, 1)), kind) for kind in KINDS),
        *((f"{kind} of a line", Image.new("RGB", (10_000, 1)), kind) for kind in KINDS),
        *((f"{kind} of a column", Image.new("RGB", (1, 10_000)), kind) for kind in KINDS),
        ("tiff of floats, some of them none", Image.fromarray(holes), "TIFF"),
        ("tiff of one float", Image.fromarray(np.full((8, 8), 3e38, np.float32)), "TIFF"),
        ("tiff of 16 bits", Image.fromarray(numbers.astype(np.uint16) * 257), "TIFF"),
        ("tiff of signed numbers", Image.fromarray(numbers.astype(np.int32) * -(2**23)), "TIFF"),
        ("png of nothing but transparency", Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG"),
    ]
    for name, image, kind in made:
        yield Case("strange", name, saved(image, kind), FINE)


def _dated(image: Image.Image) -> Image.Image:
    """With a date of ours in its colour profile, where Pillow writes the second that it is."""
    if profile := image.info.get("icc_profile"):  # of a Lab picture
        image.info["icc_profile"] = (
            profile[:24] + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + profile[36:]
        )
    return image


def _profile(size: int) -> tuple[bytes, bytes]:
    return b"iCCP", b"x\0\0" + _packed(size)


def _texts(count: int, size: int) -> list[tuple[bytes, bytes]]:
    packed = _packed(size)
    return [(b"zTXt", b"x\0\0" + packed), (b"iTXt", b"x\0\1\0\0\0" + packed)] * (count // 2)


def _packed(size: int) -> bytes:
    """So many zeros, deflated, without holding all of them."""
    deflate = zlib.compressobj(9)
    return b"".join(deflate.compress(bytes(MB)) for _ in range(size // MB)) + deflate.flush()


def _png_of_nothing(side: int, depth: int, colour: int) -> bytes:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    deflate = zlib.compressobj(1)
    row = bytes(1 + side * channels * depth // 8)
    pixels = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


PARTS = (
    _cut,
    _flipped,
    _bombs,
    _heavy,
    _largest,
    _mismatched,
    _others,
    _polyglots,
    _metadata,
    _strange,
)
