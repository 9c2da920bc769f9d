"""Tests of the one way in for a picture: every kind and mode, limits, and bad files."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pillow_heif
import pytest
import skimage.data
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from captioner.errors import (
    BrokenPictureError,
    NoPictureError,
    PictureError,
    PictureTooLargeError,
    UnsupportedPictureError,
)
from captioner.pictures.decode import read_picture
from captioner.pictures.kinds import RAW, READ, kind_of
from captioner.pictures.preprocess import JpegNormalization, Preprocessor
from tests.kit import ROOT
from tests.kit.picture_files import GREY_8X8, png, saved, tiff

LOSSY = 6.0  # mean difference, in levels of 255, that JPEG and lossy WebP may make


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real photo, cropped to a shape of which no turn is mistaken for another: (96, 64)."""
    return Image.fromarray(skimage.data.astronaut()[20:276, 120:504]).resize((96, 64))


def difference(a: object, b: object) -> float:
    """Mean absolute difference of two pictures of the same shape, in levels of 255."""
    left, right = np.asarray(a), np.asarray(b)
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


def on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def half_transparent(photo: Image.Image) -> Image.Image:
    """RGBA: transparent on the left, opaque on the right, every value of alpha between."""
    rgba = photo.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 96), (64, 1)).astype(np.uint8)))
    return rgba


# --- Kinds and modes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, LOSSY),
        ("JPEG", {"quality": 95, "progressive": True}, LOSSY),
        ("JPEG", {"quality": 95, "subsampling": 0}, LOSSY),
        ("JPEG", {"quality": 95, "keep_rgb": True}, LOSSY),
        ("PNG", {}, 0),
        ("WEBP", {"quality": 95}, LOSSY),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "jpeg"}, LOSSY),
        ("TIFF", {"big_tiff": True}, 0),
        ("GIF", {}, 12),
    ],
)
def test_kinds(photo: Image.Image, kind: str, options: dict[str, Any], tolerance: float) -> None:
    rgb = read_picture(saved(photo, kind, **options))
    assert rgb.shape == (64, 96, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert difference(rgb, photo) <= tolerance


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("L", "CMYK", "YCbCr")),
        *(("PNG", mode) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")),
        *(("WEBP", mode) for mode in ("L", "RGBA")),
        *(("GIF", mode) for mode in ("1", "L", "P")),
        *(("BMP", mode) for mode in ("1", "L", "P", "RGBA")),
        *(("TIFF", mode) for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "I;16")),
    ],
)
def test_modes(photo: Image.Image, kind: str, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
        expected = photo.convert("L").convert("RGB")
    else:
        image = photo.convert(mode)
        expected = image.convert("RGB")
    rgb = read_picture(saved(image, kind))
    assert difference(rgb, expected) <= (LOSSY if kind in ("JPEG", "WEBP") else 1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
def test_transparent_parts_are_white(
    photo: Image.Image, kind: str, options: dict[str, Any]
) -> None:
    image = half_transparent(photo)
    rgb = read_picture(saved(image, kind, **options))
    assert difference(rgb, on_white(image)) < 1
    assert rgb[:, 0].min() == 255
    assert difference(rgb[:, -1], np.asarray(photo)[:, -1]) == 0


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "P"), ("PNG", "L"), ("PNG", "RGB"), ("GIF", "P"), ("GIF", "L")]
)
def test_a_colour_that_means_transparent_is_white(kind: str, mode: str) -> None:
    image = Image.new(mode, (20, 10), 200 if mode != "RGB" else (200, 10, 10))
    if mode == "P":
        image.putpalette([10, 20, 30] * 256)
    image.paste(7 if mode != "RGB" else (7, 7, 7), (0, 0, 10, 10))
    rgb = read_picture(saved(image, kind, transparency=7 if mode != "RGB" else (7, 7, 7)))
    assert rgb[:, :10].min() == 255
    assert rgb[:, 10:].max() < 255


def test_palette_with_alpha(photo: Image.Image) -> None:
    image = half_transparent(photo).quantize(64)
    assert image.mode == "P"
    assert difference(read_picture(saved(image, "PNG")), on_white(image)) < 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits(photo: Image.Image, channels: int) -> None:
    rgba = np.asarray(half_transparent(photo))
    eight = {1: rgba[..., 0], 3: rgba[..., :3], 4: rgba}[channels]
    expected = on_white(Image.fromarray(eight)) if channels == 4 else Image.fromarray(eight)
    bgr = cv2.cvtColor(eight, cv2.COLOR_RGBA2BGRA if channels == 4 else cv2.COLOR_RGB2BGR)
    if channels == 1:
        bgr = eight
    _, data = cv2.imencode(".png", bgr.astype(np.uint16) * 257)
    assert difference(read_picture(data.tobytes()), expected.convert("RGB")) <= 1


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_stretched(dtype: type) -> None:
    ramp: NDArray[Any] = np.tile(np.linspace(-5, 5, 64) * 1000, (8, 1)).astype(dtype)
    rgb = read_picture(saved(Image.fromarray(ramp), "TIFF"))
    assert rgb[:, 0].max() == 0
    assert rgb[:, -1].min() == 255
    flat: NDArray[Any] = np.full((8, 8), np.nan if dtype is np.float32 else 7, dtype)
    assert read_picture(saved(Image.fromarray(flat), "TIFF")).max() == 0


def test_what_is_no_number_has_no_part_in_the_stretch() -> None:
    ramp: NDArray[Any] = np.tile(np.linspace(1000, 1001, 64), (8, 1)).astype(np.float32)
    expected = read_picture(saved(Image.fromarray(ramp), "TIFF"))
    ramp[0, :3] = np.nan, np.inf, -np.inf
    rgb = read_picture(saved(Image.fromarray(ramp), "TIFF"))
    assert difference(rgb[1:], expected[1:]) == 0
    assert rgb[0, :3, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    ("dtype", "byteorder", "values"),
    [
        (np.uint32, "<", (0, 2**32 - 1)),  # Pillow refuses these with the other order
        (np.int32, "<", (-(2**31), 2**31 - 1)),
        (np.int32, ">", (-(2**31), 2**31 - 1)),
    ],
)
def test_whole_numbers_of_32_bits(dtype: type, byteorder: Any, values: tuple[int, int]) -> None:
    ramp: NDArray[Any] = np.tile(np.linspace(*values, 64).astype(dtype), (8, 1))
    file = io.BytesIO()
    tifffile.imwrite(file, ramp, byteorder=byteorder)
    rgb = read_picture(file.getvalue())
    assert difference(rgb[0, :, 0], np.linspace(0, 255, 64).round()) < 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_in_which_0_is_white(dtype: type, compression: str | None) -> None:
    """Of any depth, it is the same picture as with 0 for black."""
    shown = []
    for photometric in ("minisblack", "miniswhite"):
        ramp = np.tile(np.linspace(0, 1, 64), (8, 1))
        if photometric == "miniswhite":
            ramp = 1 - ramp
        scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
        file = io.BytesIO()
        pixels = ramp > 0.5 if dtype is bool else (ramp * scale).astype(dtype)
        tifffile.imwrite(file, pixels, photometric=photometric, compression=compression)
        shown.append(read_picture(file.getvalue()))
    assert difference(*shown) <= 1
    assert shown[1][0, 0, 0] < 5
    assert shown[1][0, -1, 0] > 250


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [3, 4])
def test_planes_of_16_bits_are_refused_in_words(channels: int, compression: str | None) -> None:
    file = io.BytesIO()
    pixels = np.zeros((channels, 8, 8), np.uint16)
    tifffile.imwrite(
        file, pixels, photometric="rgb", planarconfig="separate", compression=compression
    )
    with pytest.raises(PictureError, match="separate planes"):
        read_picture(file.getvalue())


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 32)},
        {"tile": (32, 32), "compression": "zlib", "predictor": True},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"rowsperstrip": 5, "compression": "zlib"},
        {"planarconfig": "separate"},
    ],
)
def test_tiff_layouts(photo: Image.Image, options: dict[str, Any]) -> None:
    pixels = np.asarray(photo)
    if options.get("planarconfig"):
        pixels = np.moveaxis(pixels, 2, 0)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", **options)
    assert difference(read_picture(file.getvalue()), photo) == 0


def test_tiff_of_sixteen_bits_and_three_channels(photo: Image.Image) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.asarray(photo).astype(np.uint16) * 257, photometric="rgb")
    assert difference(read_picture(file.getvalue()), photo) <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_several(photo: Image.Image, kind: str) -> None:
    frames = [Image.new("RGB", photo.size, colour) for colour in ("blue", "red")]
    data = saved(photo, kind, save_all=True, append_images=frames)
    assert difference(read_picture(data), photo) < 12


def test_a_gif_whose_first_frame_does_not_fill_it() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 255, 255, 9, 9, 9])
    data = bytearray(saved(image, "GIF"))
    data[6:10] = struct.pack("<HH", 8, 8)  # the logical screen
    rgb = read_picture(bytes(data))
    assert rgb.shape == (8, 8, 3)
    assert rgb[0, 0].tolist() == [9, 9, 9]


def test_bmp_with_alpha(photo: Image.Image) -> None:
    for image, expected in [
        (half_transparent(photo), on_white(half_transparent(photo))),
        (Image.merge("RGBA", [*photo.split(), Image.new("L", photo.size)]), photo),  # says nothing
    ]:
        _, data = cv2.imencode(".bmp", cv2.cvtColor(np.asarray(image), cv2.COLOR_RGBA2BGRA))
        assert difference(read_picture(data.tobytes()), expected) < 1


def test_cmyk_jpeg_of_adobe(photo: Image.Image) -> None:
    image = photo.convert("CMYK")
    assert difference(read_picture(saved(image, "JPEG", quality=95)), photo) < LOSSY


# --- Orientation and other metadata ---------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF LZW"])
def test_orientation(photo: Image.Image, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "TIFF LZW":
        kind, options = "TIFF", {"compression": "tiff_lzw"}
    data = saved(photo, kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    rgb = read_picture(data)
    assert rgb.shape == ((64, 96, 3) if orientation <= 4 else (96, 64, 3))
    assert difference(rgb, upright) < 2
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_at_reduced_size(photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo.resize((960, 640)), "JPEG", exif=exif)
    full, reduced = read_picture(data), read_picture(data, shortest_side_at_least=100)
    assert reduced.shape[:2] == tuple(side // 4 for side in full.shape[:2])
    assert (
        difference(Preprocessor(50).tensor(full) * 127, Preprocessor(50).tensor(reduced) * 127) < 2
    )


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none(photo: Image.Image, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert read_picture(saved(photo, "JPEG", exif=exif)).shape == (64, 96, 3)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0nonsense",
    ],
)
def test_damaged_metadata_does_not_matter(photo: Image.Image, exif: bytes) -> None:
    plain = saved(photo, "JPEG")
    marked = plain[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + plain[2:]
    assert difference(read_picture(marked), read_picture(plain)) == 0


def test_orientation_after_the_pixels_of_a_png(photo: Image.Image) -> None:
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    data = saved(photo, "PNG")
    assert read_picture(data[:-12] + chunk + data[-12:]).shape == (96, 64, 3)


# --- Arrays, paths --------------------------------------------------------------------------------


def test_an_array_is_taken_as_it_is(photo: Image.Image) -> None:
    pixels = np.asarray(photo)
    assert read_picture(pixels) is pixels
    turned = read_picture(pixels[:, ::-1])
    assert turned.flags.c_contiguous
    assert difference(turned, pixels[:, ::-1]) == 0


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_an_array_of_another_shape_or_type(array: NDArray[np.uint8]) -> None:
    with pytest.raises(UnsupportedPictureError, match=r"shape .* and type .*; convert it first"):
        read_picture(array)


def test_an_array_of_too_many_pixels() -> None:
    with pytest.raises(PictureTooLargeError, match="5 x 4 pixels"):
        read_picture(np.zeros((4, 5, 3), np.uint8), max_pixels=19)


@pytest.mark.parametrize("source", [None, 7, ["photo.jpg"], Image.new("RGB", (1, 1))])
def test_a_source_of_another_type(source: Any) -> None:
    with pytest.raises(TypeError, match="as a path, as bytes or as an RGB array"):
        read_picture(source)


def test_paths_and_bytes_give_the_same(photo: Image.Image, tmp_path: Path) -> None:
    data = saved(photo, "JPEG")
    (tmp_path / "a photo.txt").write_bytes(data)  # a name decides nothing
    expected = read_picture(data)
    for source in (tmp_path / "a photo.txt", str(tmp_path / "a photo.txt")):
        assert difference(read_picture(source), expected) == 0
    for buffer in (bytearray(data), memoryview(data)):
        assert difference(read_picture(buffer), expected) == 0


def test_paths_without_a_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.jpg").touch()
    for name, sentence in [
        ("none.jpg", "There is no file '.*none.jpg'; check the name"),
        ("", "is a folder, not a picture"),
        ("pipe", "is not an ordinary file"),
        ("empty.jpg", r"is empty \(0 bytes\)"),
        ("null\0.jpg", "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("empty.jpg/photo.jpg", "cannot be read"),
    ]:
        with pytest.raises(NoPictureError, match=sentence):
            read_picture(str(tmp_path / name))
    with pytest.raises(NoPictureError):
        read_picture("")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:  # root, as in a container, may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    (tmp_path / "secret.jpg").touch()
    with pytest.raises(NoPictureError, match="may not be read"):
        read_picture(tmp_path / "secret.jpg")


# --- Limits ---------------------------------------------------------------------------------------


def test_bytes_are_counted(photo: Image.Image, tmp_path: Path) -> None:
    data = saved(photo, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(data)
    assert read_picture(data, max_bytes=len(data)).shape == (64, 96, 3)
    for source in (data, tmp_path / "photo.jpg"):
        with pytest.raises(PictureTooLargeError, match="MB are accepted; send"):
            read_picture(source, max_bytes=len(data) - 1)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(2**40)  # sparse: takes no space
    with pytest.raises(PictureTooLargeError, match=r"has 1048576\.0 MB, and at most 1024 MB"):
        read_picture(tmp_path / "large.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "WEBP lossless", "GIF", "BMP", "TIFF"])
def test_pixels_are_counted_before_decoding(
    photo: Image.Image, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, *lossless = kind.split()
    data = saved(photo, kind, **({"lossless": True} if lossless else {}))
    assert read_picture(data, max_pixels=96 * 64).shape == (64, 96, 3)

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded before its pixels were counted")

    monkeypatch.setattr(cv2, "imdecode", decode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", decode)
    with pytest.raises(PictureTooLargeError, match=r"96 x 64 pixels large, and at most 0\.006143"):
        read_picture(data, max_pixels=96 * 64 - 1)


def huge(kind: str) -> bytes:
    """A small file that says that it has 200 megapixels or more."""
    small = Image.new("L", (8, 8))
    if kind == "PNG":
        return png(20_000, 10_000, data=zlib.compress(b"\0"))
    data = bytearray(saved(small, kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 65_535, 65_535)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 20_000, -10_000)
    elif kind == "WEBP":
        at = data.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = struct.pack("<HH", 16_383, 16_383)
    elif kind == "TIFF":
        for tag in (256, 257):
            at = data.index(struct.pack("<HH", tag, 4) if tag > 999 else struct.pack("<H", tag))
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 20_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_bombs_are_refused_without_memory(kind: str) -> None:
    data = huge(kind)
    tracemalloc.start()
    try:
        with pytest.raises(PictureTooLargeError, match="megapixels"):
            read_picture(data)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_gif_whose_frame_is_larger_than_its_screen() -> None:
    data = bytearray(saved(Image.new("L", (8, 8)), "GIF"))
    at = data.index(b"\x2c\0\0\0\0")  # the frame
    data[at + 5 : at + 9] = struct.pack("<HH", 10_000, 10_000)
    with pytest.raises(PictureTooLargeError):
        read_picture(bytes(data))
    data[at + 5 : at + 9] = struct.pack("<HH", 65_535, 65_535)
    with pytest.raises(PictureTooLargeError):
        read_picture(bytes(data))


def test_a_line_of_many_pixels() -> None:
    with pytest.raises(PictureTooLargeError, match="65535 pixels a side"):
        read_picture(png(70_000, 1))
    assert read_picture(png(65_535, 1)).shape == (1, 65_535, 3)
    assert read_picture(png(1, 65_535)).shape == (65_535, 1, 3)


def test_png_texts_and_profiles_reach_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    chunks = [(b"zTXt", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb)] * 20
    data = png(8, 8, *chunks, (b"iCCP", b"a\0\0" + bomb), (b"acTL", bytes(8)))
    seen = []
    opened = PngImagePlugin.PngImageFile

    def spied(file: io.BytesIO) -> Any:
        seen.append(file.getvalue())
        return opened(file)

    monkeypatch.setattr(PngImagePlugin, "PngImageFile", spied)
    assert read_picture(data).shape == (8, 8, 3)
    assert seen == [png(8, 8)]


def test_tiff_by_hand() -> None:
    assert read_picture(tiff(*GREY_8X8, rest=bytes(64))).max() < 80


@pytest.mark.parametrize("directory", ["main", "EXIF"])
def test_a_tiff_whose_tags_all_name_the_same_bytes(directory: str) -> None:
    many = [(tag, 1, 1_000_000, 8) for tag in range(1000, 1300)]
    if directory == "main":
        data = tiff(*GREY_8X8, *many, rest=bytes(1_100_000))
    else:
        plain = tiff(*GREY_8X8, (34665, 4, 1, 0), rest=bytes(64))
        inner = struct.pack("<H", len(many)) + b"".join(struct.pack("<HHII", *e) for e in many)
        data = tiff(*GREY_8X8, (34665, 4, 1, len(plain)), rest=bytes(64)) + inner + bytes(1_100_000)
    tracemalloc.start()
    try:
        read_picture(data)
    except BrokenPictureError:
        pass  # newer versions of Pillow leave such tags out by themselves
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20_000_000


def test_a_tiff_with_a_giant_tile() -> None:
    entries = [e for e in GREY_8X8 if e[0] not in (259, 273, 278, 279)]
    entries += [(259, 3, 1, 8), (322, 4, 1, 60_000), (323, 4, 1, 60_000)]
    entries += [(324, 4, 1, 8), (325, 4, 1, 64)]
    with pytest.raises(PictureError):
        read_picture(tiff(*sorted(entries), rest=bytes(64)))


# --- What is not a picture, or no longer ----------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello, I am a text file named photo.jpg\n" * 50, "text"),
        ("prix: 5 \u20ac, d\u00e9j\u00e0 vu ".encode() * 100, "text"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\xef\xbb\xbf<svg></svg>", "an SVG drawing"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"\0\0\1\0\1\0", "an icon"),
        (b"PK\3\4\x14\0", "a ZIP archive"),
        (b"RIFF\0\0\0\0WAVEfmt ", "a file of an unknown kind"),
        (b"BM is how this text begins, which is no bitmap", "text"),
        (bytes(1000), "a file of an unknown kind"),
        (random.Random(0).randbytes(1000), "a file of an unknown kind"),
        (b"\xff", "a file of an unknown kind"),
    ],
)
def test_other_kinds_are_named(data: bytes, kind: str) -> None:
    with pytest.raises(UnsupportedPictureError, match=kind) as caught:
        read_picture(data)
    assert all(name in str(caught.value) for name in READ if name != RAW)
    assert "raw file" in str(caught.value)
    assert caught.value.status == 415


@pytest.mark.skipif(bool(find_spec("pillow_jxl")), reason="the plug-in is installed")
@pytest.mark.parametrize("data", [b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a\xfa\x1f"])
def test_jpeg_xl_names_its_plug_in(data: bytes) -> None:
    with pytest.raises(UnsupportedPictureError, match="pip install pillow-jxl-plugin"):
        read_picture(data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"P6\n9 9\n255\n", "PPM"),
    ],
)
def test_headers_alone_are_broken_pictures(data: bytes, kind: str) -> None:
    with pytest.raises(BrokenPictureError, match=f"The {kind} picture is damaged"):
        read_picture(data)


def test_kinds_are_told_apart(photo: Image.Image) -> None:
    formats = (
        "JPEG",
        "PNG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "HEIF",
        "AVIF",
        "JPEG2000",
        "PPM",
        "TGA",
    )
    assert (*(kind_of(saved(photo, kind)) for kind in formats), RAW) == READ


# --- Other kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "most"), [("HEIF", 6), ("AVIF", 6), ("JPEG2000", 1), ("PPM", 0), ("TGA", 0)]
)
def test_more_kinds(photo: Image.Image, kind: str, most: float) -> None:
    data = saved(photo, kind)
    assert difference(read_picture(data), photo) <= most
    with pytest.raises(PictureTooLargeError):
        read_picture(data, max_pixels=photo.width * photo.height - 1)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_rotation_inside_heif_is_applied_once(photo: Image.Image, kind: str) -> None:
    """The container's own rotation counts, and EXIF's beside it does not turn it again."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the encoders write it as the container's rotation, and keep it in EXIF
    rgb = read_picture(saved(photo, kind, exif=exif.tobytes()))
    turned = photo.transpose(Image.Transpose.ROTATE_270)
    assert rgb.shape[:2] == (turned.height, turned.width)
    assert difference(rgb, turned) < 6


def test_a_phone_photo_of_50_megapixels() -> None:
    """It is decoded reduced, so it may have more pixels than other kinds."""
    data = saved(Image.effect_noise((8160, 6144), 50).resize((8160, 6144)), "JPEG", quality=30)
    assert read_picture(data, shortest_side_at_least=600).shape == (768, 1020, 3)
    with pytest.raises(PictureTooLargeError):
        read_picture(data)
    with pytest.raises(PictureTooLargeError):
        read_picture(data, shortest_side_at_least=600, max_pixels=12_000_000)


def animated(kind: str, *frames: Image.Image) -> bytes:
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_that_begins_with_one_colour(photo: Image.Image, kind: str) -> None:
    black = Image.new("RGB", photo.size)
    rgb = read_picture(animated(kind, black, black, photo))
    assert difference(rgb, photo) < 30
    assert read_picture(animated(kind, black, black)).max() < 4
    first = read_picture(animated(kind, photo, black))
    assert difference(first, photo) < 30


def raw_file(kind: str, photo: Image.Image) -> bytes:
    """As cameras lay raw files out: thumbnail, preview, and sensor data that looks like a JPEG."""
    small = saved(photo.resize((16, 12)), "JPEG")
    large = saved(photo, "JPEG", quality=95)
    sensor = b"\xff\xd8\xff\xc4\0\x04\0\0" + bytes(300)
    turned = (0x0112, 3, 1, 6)
    if kind == "CR3":
        box = b"CMT1" + b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, *turned, 0)
        return b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + box + small + large + sensor
    if kind == "RAF":
        exif = Image.Exif()
        exif[0x0112] = 6
        large = saved(photo, "JPEG", quality=95, exif=exif.tobytes())
        return b"FUJIFILMCCD-RAW 0201" + bytes(100) + large + sensor
    make, part = (0x10F, 2, 4, 0x4E494B), (0xFE, 4, 1, 1)
    marks = {
        "DNG": [(0xC612, 1, 4, 1)],
        "DNG of tiles": [(0xC612, 1, 4, 1)],
        "NEF": [part, make],
        "PEF": [make, (259, 3, 1, 65535), (262, 3, 1, 32803)],
    }
    entries = {entry[0]: entry for entry in [*GREY_8X8, turned, *marks.get(kind, marks["NEF"])]}
    if kind == "ARW":  # the first directory has no size at all
        entries = {e[0]: e for e in [part, (259, 3, 1, 6), make, turned, (0x14A, 4, 1, 8)]}
    if kind == "DNG of tiles":  # lossless, each with more pixels than the preview
        frame = struct.pack(">HBHHB", 14, 16, 256, 256, 2) + bytes(6)
        sensor = (b"\xff\xd8\xff\xc3" + frame + b"\xff\xda\0\2" + bytes(50) + b"\xff\xd9") * 1000
        small = sensor + small
    data = tiff(*sorted(entries.values()), rest=bytes(64)) + small + large + sensor
    return b"IIU\0" + data[4:] if kind == "RW2" else data


RAW_KINDS = ["DNG", "DNG of tiles", "NEF", "ARW", "PEF", "RW2", "CR3", "RAF"]


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_the_largest_preview_of_a_raw_file(photo: Image.Image, kind: str) -> None:
    rgb = read_picture(raw_file(kind, photo))
    turned = photo.transpose(Image.Transpose.ROTATE_270)
    assert rgb.shape[:2] == (turned.height, turned.width)
    assert difference(rgb, turned) < LOSSY


def test_a_raw_file_without_a_preview() -> None:
    with pytest.raises(BrokenPictureError, match="no preview that can be read"):
        read_picture(b"FUJIFILMCCD-RAW 0201" + bytes(500))


@pytest.mark.parametrize("photoshop", [True, False])
@pytest.mark.parametrize("further", ["sizes", "thumbnail"])
def test_an_ordinary_tiff_that_names_a_camera(
    photo: Image.Image, photoshop: bool, further: str
) -> None:
    """With its SubIFDs, and the small JPEG that Photoshop keeps beside."""
    make: list[Any] = [(271, "s", 0, "Canon", True)]
    if photoshop:
        make.append((34377, "B", 0, saved(photo.resize((48, 32)), "JPEG"), True))
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        sizes = 1 if further == "sizes" else 0
        writer.write(np.asarray(photo), photometric="rgb", subifds=sizes, extratags=make)
        small = np.asarray(photo.resize((48, 32)))
        writer.write(small, photometric="rgb", subfiletype=1, extratags=make)
    assert difference(read_picture(file.getvalue()), photo) == 0


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_mutated_raw_files_give_pixels_or_a_sentence(photo: Image.Image, kind: str) -> None:
    """And no warning, which would go to the log."""
    original, chance = raw_file(kind, photo), random.Random(kind)
    outcomes = set()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(100):
            data = bytearray(original)
            for _ in range(chance.randint(1, 6)):
                data[chance.randrange(min(len(data), chance.choice([64, 200, 3000])))] = (
                    chance.randrange(256)
                )
            try:
                outcomes.add(read_picture(bytes(data), max_pixels=1_000_000).shape[2])
            except PictureError as error:
                outcomes.add(error.status)
    assert 3 in outcomes
    assert outcomes <= {3, 413, 415, 422}
    assert warned == []


def test_markers_without_end_in_a_raw_file_cost_no_time() -> None:
    for piece in (b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\2", b"\xff\xd8" + b"\xff\xe0\0\2" * 99):
        start = time.monotonic()
        with pytest.raises(BrokenPictureError, match="no preview"):
            read_picture(b"FUJIFILMCCD-RAW 0201" + piece * (20_000_000 // len(piece)))
        assert time.monotonic() - start < 2


def test_nothing_at_all() -> None:
    with pytest.raises(NoPictureError, match=r"empty \(0 bytes\)"):
        read_picture(b"")


ALL = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


@pytest.mark.parametrize("kind", ALL)
def test_a_picture_cut_short(
    photo: Image.Image, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = saved(photo, kind)
    for length in [20, 40, len(data) // 4, len(data) // 2, len(data) * 9 // 10]:
        with pytest.raises(BrokenPictureError, match="damaged, cut short") as caught:
            read_picture(data[:length])
        assert caught.value.status == 422
    assert capfd.readouterr() == ("", "")


def test_a_png_with_a_wrong_checksum(photo: Image.Image, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(saved(photo, "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(BrokenPictureError):
        read_picture(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\0\2",
        b"\xff\xd8" + b"\xff\xfe\0\2" * 200_000,
        b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\0\1\1\x11\0\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
        png(0, 8),
        png(8, 0),
        png(8, 8)[:-12],
        png(8, 8, (b"IHDR", bytes(13))),
        png(8, 8, *[(b"tEXt", b"")] * 120_000),
        png(8, 8, data=b""),
        png(8, 8, data=zlib.compress(bytes(9))),
        b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0",
        b"RIFF\x0c\0\0\0WEBPVP8X\0\0\0\0",
        b"RIFF\x0c\0\0\0WEBPXXXX\0\0\0\0",
        b"GIF89a",
        b"GIF89a\0\0\0\0\0\0\0;",
        b"II*\0\x08\0\0\0",
        b"II*\0\xff\xff\xff\xff",
        tiff(),
        tiff(*[(256, 3, 1, 8)] * 3),
        b"MM\0+\0\x08\0\0" + b"\xff" * 40,
        b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(36),
        b"BM" + bytes(12) + b"\x28\0\0\0" + b"\xff" * 36,
    ],
)
def test_broken_headers(data: bytes) -> None:
    with pytest.raises(BrokenPictureError):
        read_picture(data)


@pytest.mark.parametrize("kind", [*ALL, "GIF animated", "WEBP alpha", "PNG alpha", "TIFF LZW"])
def test_mutated_pictures_give_pixels_or_a_sentence(photo: Image.Image, kind: str) -> None:
    kind, *variant = kind.split()
    options: dict[str, Any] = {}
    if variant == ["animated"]:
        options = {"save_all": True, "append_images": [Image.new("RGB", photo.size)]}
    if variant == ["LZW"]:
        options = {"compression": "tiff_lzw"}
    image = half_transparent(photo) if variant == ["alpha"] else photo
    original = saved(image.resize((24, 16)), kind, **options)
    chance = random.Random(kind)
    for _ in range(150):
        data = bytearray(original)
        for _ in range(chance.randint(1, 6)):
            # Headers are where it hurts.
            at = chance.randrange(chance.choice([64, len(data)]) % len(data) or 1)
            data[at] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        try:
            rgb = read_picture(bytes(data), max_pixels=1_000_000)
        except PictureError:
            continue
        assert rgb.dtype == np.uint8
        assert rgb.shape[0] * rgb.shape[1] <= 1_000_000


# --- The encoder's input and the thumbnail --------------------------------------------------------


def test_encoder_input_is_what_the_network_was_trained_on() -> None:
    rgb = np.zeros((50, 70, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 0, 51, 255
    values = Preprocessor(299).tensor(rgb)
    assert values.shape == (299, 299, 3)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[150, 150], [-1, -0.6, 1], atol=1e-6)
    np.testing.assert_array_equal(values, values[:1, :1].repeat(299, 0).repeat(299, 1))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 5000), (5000, 1), (299, 299), (64, 96), (600, 100)]
)
def test_encoder_input_takes_every_shape(height: int, width: int) -> None:
    values = Preprocessor(299).tensor(np.full((height, width, 3), 255, np.uint8))
    assert values.shape == (299, 299, 3)
    assert values.min() == values.max() == 1


def test_encoder_input_averages_what_it_shrinks() -> None:
    stripes = np.zeros((100, 5980, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show, while the other side grows
    values = Preprocessor(299).tensor(stripes)
    assert np.abs(values).max() < 0.01


def test_encoder_input_is_exact_at_its_own_size() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    np.testing.assert_allclose(Preprocessor(30).tensor(rgb), rgb / 127.5 - 1, rtol=0, atol=1e-7)


def test_a_large_photo_becomes_the_small_copy_that_a_collection_would_hold(tmp_path: Path) -> None:
    """Pixel for pixel the file that OpenCV writes; a small photo stays as it is."""
    copies = JpegNormalization(side=64, quality=75, above=100)
    photo = np.ascontiguousarray(skimage.data.astronaut()[:300])
    small = cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA)
    file = tmp_path / "small.jpg"
    cv2.imwrite(str(file), small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    np.testing.assert_array_equal(copies.apply(photo), read_picture(file))
    assert np.abs(copies.apply(photo).astype(int) - small).max() > 5, "no trace of JPEG"
    for shape in [(100, 100, 3), (50, 200, 3)]:
        rgb = np.zeros(shape, np.uint8)
        assert copies.apply(rgb) is rgb
    assert copies.apply(np.zeros((20, 900, 3), np.uint8)).shape == (64, 64, 3)


def test_a_reduced_jpeg_gives_nearly_the_same_input() -> None:
    """What `read_picture` promises of `shortest_side_at_least` for a photo of 12 megapixels."""
    grain = np.random.default_rng(0).normal(0, 4, (3000, 4000, 1))
    large = cv2.resize(skimage.data.astronaut(), (4000, 3000), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(large + grain, 0, 255).astype(np.uint8)
    data = saved(Image.fromarray(pixels), "JPEG", quality=90)
    full, reduced = read_picture(data), read_picture(data, shortest_side_at_least=600)
    assert full.shape == (3000, 4000, 3)
    assert reduced.shape == (750, 1000, 3)
    distance = np.abs(Preprocessor(299).tensor(full) - Preprocessor(299).tensor(reduced)) * 127.5
    assert distance.mean() < 1


def test_a_small_jpeg_is_never_reduced_below_what_is_asked(photo: Image.Image) -> None:
    for side, shape in [(64, (64, 96, 3)), (33, (64, 96, 3)), (32, (32, 48, 3)), (1, (8, 12, 3))]:
        assert read_picture(saved(photo, "JPEG"), shortest_side_at_least=side).shape == shape


def test_thumbnail(photo: Image.Image) -> None:
    data = Preprocessor.thumbnail(np.asarray(photo.resize((960, 640))), 320)
    rgb = read_picture(data)
    assert rgb.shape == (213, 320, 3)
    assert difference(rgb, photo.resize((320, 213))) < LOSSY
    assert b"Exif" not in data


@pytest.mark.parametrize(
    ("shape", "expected"), [((20, 30), (20, 30)), ((5000, 1), (640, 1)), ((1, 1), (1, 1))]
)
def test_thumbnails_of_odd_shapes(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    data = Preprocessor.thumbnail(np.zeros((*shape, 3), np.uint8), 640)
    assert read_picture(data).shape[:2] == expected


# --- OpenCV itself --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        ("libGL.so.1: cannot open shared object file: No such file", "libgl1 libglib2.0-0'"),
        ("libgthread-2.0.so.0: cannot open shared object file", "libgl1 libglib2.0-0'"),
        ("No module named 'cv2'", "pip install -r requirements.txt'"),
    ],
)
def test_a_missing_library_is_named(tmp_path: Path, failure: str, remedy: str) -> None:
    (tmp_path / "cv2.py").write_text(f"raise ImportError({failure!r})")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from captioner.errors import CaptionerError
        try:
            import captioner.pictures.decode
        except CaptionerError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1
    assert remedy in run.stdout


def test_pillow_keeps_its_own_limit() -> None:
    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3


@pytest.mark.parametrize(("kind", "reader"), [
    ("HEIF", "pi_heif.HeifImageFile"),
    ("AVIF", "PIL.AvifImagePlugin.AvifImageFile"),
    ("JPEG2000", "PIL.Jpeg2KImagePlugin.Jpeg2KImageFile"),
    ("JPEG", "PIL.JpegImagePlugin.JpegImageFile"),
])  # fmt: skip
def test_several_threads_decode_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, kind: str, reader: str
) -> None:
    """A phone's photo takes most of a second, so one must not wait for another."""
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).save(file, kind)
    module, _, name = reader.rpartition(".")
    class_ = getattr(import_module(module), name)
    load, together, seen = class_.load, threading.Barrier(2, timeout=20), threading.local()

    def meets_the_other(self: Any) -> Any:
        if not getattr(seen, "once", False):
            seen.once = True
            together.wait()
        return load(self)

    monkeypatch.setattr(class_, "load", meets_the_other)
    with ThreadPoolExecutor(2) as threads:
        shapes = [rgb.shape for rgb in threads.map(read_picture, 2 * [file.getvalue()])]
    assert shapes == 2 * [(400, 600, 3)]
