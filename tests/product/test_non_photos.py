"""benchmarks.non_photos: Chromium draws its pages, and each is counted by its kind."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks import non_photos
from captioner import Captioner
from captioner.pictures.decode import read_picture


def test_a_hundred_pages_of_ten_kinds_the_same_each_time() -> None:
    pages = [*non_photos.Pages(1).all()]
    assert len({kind for kind, _, _ in pages}) == 10
    assert len({page for _, page, _ in pages}) == 100
    assert pages == [*non_photos.Pages(1).all()]


@pytest.mark.browser
def test_chromium_draws_them_and_their_captions_are_counted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(non_photos, "EACH", 1)
    with_picture = itertools.islice(non_photos.screenshots(tmp_path), 2)
    for _, png in with_picture:
        assert len(set(read_picture(png).reshape(-1).tolist())) > 2, "something is drawn"
    # The tiny model has no calibration, so it calls everything a photo.
    assert set(non_photos.found(Captioner.load(tiny_model)).values()) == {0}
