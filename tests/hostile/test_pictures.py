"""A fuzzer for the picture reader: whatever the bytes, they become pixels or one of our errors.

The suite tries a few hundred. To look longer, for as many as you like, other ones each time:

    FUZZ_EXAMPLES=100000 python -m pytest --timeout=0 -o faulthandler_timeout=0 \
        tests/hostile/test_pictures.py

What it finds goes into tests/hostile/pictures.py, whose cases also go to a real app1.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioner.errors import PictureError
from captioner.pictures.decode import read_picture
from captioner.pictures.preprocess import Preprocessor
from tests.hostile.pictures import PARTS, mutated, originals
from tests.kit.picture_files import progressive_jpeg

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
MOST_PIXELS = 1_000_000

# Numbers at which sizes, counts and offsets turn over.
EDGES = [0, 1, 2, 7, 8, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31]
EDGES += [2**32 - 1, 2**63, 2**64 - 1]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real photo in one of all varieties, then changed in a few places, with sums put right."""
    data = bytearray(draw(st.sampled_from(list(originals().values()))))
    for _ in range(draw(st.integers(1, 6))):
        # headers are where it hurts
        most = min(len(data) - 1, draw(st.sampled_from([40, 200, 2**30])))
        at = draw(st.integers(0, max(most, 0)))
        change = draw(st.sampled_from(["number", "bytes", "cut", "repeat", "remove", "graft"]))
        if change == "number":
            order, size = draw(st.sampled_from("<>")), draw(st.sampled_from("BHIQ"))
            number = draw(st.sampled_from(EDGES)) % 256 ** struct.calcsize(size)
            packed = struct.pack(order + size, number)
            data[at : at + len(packed)] = packed
        elif change == "bytes":
            piece = draw(st.binary(min_size=1, max_size=12))
            data[at : at + len(piece)] = piece
        elif change == "cut":
            del data[at:]
        else:
            length = draw(st.integers(1, 400))
            if change == "repeat":
                data[at:at] = data[at : at + length] * draw(st.sampled_from([1, 2, 50]))
            elif change == "remove":
                del data[at : at + length]
            else:
                other = draw(st.sampled_from(list(originals().values())))
                data[at : at + length] = other[at : at + length]
    return _with_sums(bytes(data))


def _with_sums(data: bytes) -> bytes:
    """A PNG whose checksums are right again, since nothing that they refuse gets any further."""
    if not data.startswith(b"\x89PNG"):
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(mended[: len(data)])


def read(data: bytes, **options: Any) -> bool:
    """Whether these bytes are a picture; if so, all that is done with one is done."""
    refusal = None
    try:
        rgb = read_picture(data, max_pixels=MOST_PIXELS, **options)
    except PictureError as error:
        refusal = error
    if refusal:
        assert str(refusal).endswith(".")
        assert 400 <= refusal.status < 500
        return False
    assert rgb.dtype == np.uint8
    assert rgb.shape[2:] == (3,)
    assert 1 <= rgb.shape[0] * rgb.shape[1] <= MOST_PIXELS
    assert Preprocessor(32).tensor(rgb).shape == (32, 32, 3)
    assert Preprocessor.thumbnail(rgb, 64).startswith(b"\xff\xd8\xff")
    return True


@settings(
    max_examples=EXAMPLES or 300,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(damaged(), st.sampled_from([None, 1, 20, 600]))
def test_damaged_pictures(data: bytes, side: int | None) -> None:
    read(data, shortest_side_at_least=side)


@settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
)
@given(
    st.sampled_from([b"", *(data[:12] for data in originals().values())]),
    st.binary(max_size=2_000),
)
def test_noise_after_the_first_bytes_of_a_picture(start: bytes, noise: bytes) -> None:
    read(start + noise)


def test_the_original_pictures_are_read() -> None:
    """Else the fuzzer would try nothing but refusals."""
    assert all(read(data) for data in originals().values())
    chance = random.Random(0)
    survivors = [read(mutated(data, chance)) for data in originals().values() for _ in range(4)]
    assert 0.1 < np.mean(survivors) < 0.9


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__.strip("_"))
def test_the_corpus_has_no_case_twice_and_is_the_same_each_time(part: Any) -> None:
    first = [(case.name, zlib.crc32(case.data)) for case in part()]
    assert len({name for name, _ in first}) == len(first) > 0
    assert first == [(case.name, zlib.crc32(case.data)) for case in part()]


def test_large_pictures_are_converted_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time, to the same pixels as all at once."""
    whole = {name: read_picture(data) for name, data in originals().items()}
    monkeypatch.setattr("captioner.pictures.decode._STRIP_PIXELS", 96 * 5)
    for name, data in originals().items():
        np.testing.assert_array_equal(read_picture(data), whole[name], name)


def test_scans_of_a_jpeg_are_counted() -> None:
    """Each would take the decoder through the whole picture again."""
    assert read(progressive_jpeg(800, 600, scans=100))
    assert not read(progressive_jpeg(800, 600, scans=300))
