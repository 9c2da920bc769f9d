"""The cache of captions: bounded in number, bytes, time and uses, and quick to forget."""

from __future__ import annotations

import json

import pytest

from app1 import cache as module
from app1.cache import CaptionCache, Content, Key


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> CaptionCache:
    return CaptionCache(clock)


def key(name: str, beam_size: int = 3, max_candidates: int = 3) -> Key:
    return Key(name.encode(), beam_size, max_candidates)


def content(size: int = 10) -> Content:
    return Content(b"{}", bytes(size - 2))


def test_the_same_photo_and_options(cache: CaptionCache) -> None:
    cat = content()
    cache.put(key("cat"), cat, "1")
    assert cache.get(key("cat"), "2") is cat
    for other in (key("dog"), key("cat", beam_size=1), key("cat", max_candidates=1)):
        assert cache.get(other, "3") is None


def test_answers_do_not_share_what_they_may_change() -> None:
    words = [{"word": "a", "probability": 0.5, "attention": [[0.25, 0.75]]}]
    cat = Content(json.dumps({"caption": "A.", "words": words}).encode(), b"")
    cat.members(attention=True)["words"].clear()
    assert cat.members(attention=True) == {"caption": "A.", "words": words}
    assert cat.members(attention=False)["words"] == [{"word": "a", "probability": 0.5}]


def test_so_many_photos_and_no_more(cache: CaptionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES", 3)
    for name in "abcde":
        cache.put(key(name), content(), name)
    assert [name for name in "abcde" if cache.get(key(name), "x")] == ["c", "d", "e"]
    assert (len(cache), cache.bytes) == (3, 30)


def test_so_many_bytes_and_no_more(cache: CaptionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES", 100)
    for name, size in (("a", 40), ("b", 40), ("a", 10), ("c", 40), ("d", 50)):
        cache.put(key(name), content(size), name)
        assert cache.bytes <= 100
    assert [name for name in "abcd" if cache.get(key(name), "x")] == ["a", "c", "d"]
    assert cache.bytes == 100
    cache.put(key("large"), content(101), "x")
    assert (len(cache), cache.bytes) == (0, 0)


def test_a_photo_does_not_stay(cache: CaptionCache, clock: Clock) -> None:
    cache.put(key("early"), content(), "1")
    clock.now += module.SECONDS - 1
    cache.put(key("late"), content(), "2")
    assert cache.get(key("early"), "3")
    clock.now += 1
    assert cache.get(key("early"), "4") is None
    assert cache.get(key("late"), "5")
    assert cache.bytes == 10


def test_a_deleted_photo_is_forgotten_at_once(cache: CaptionCache) -> None:
    cache.put(key("cat"), content(), "1")
    cache.put(key("cat", beam_size=5), content(), "2")
    cache.put(key("dog"), content(), "3")
    cache.get(key("cat"), "4")
    cache.forget("unknown")
    assert len(cache) == 3
    cache.forget("4")  # by whoever sent it second
    assert cache.get(key("cat"), "5") is None
    assert cache.bytes == 20
    cache.forget("2")
    cache.forget("3")
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_is_remembered_of_uploads_is_bounded(
    cache: CaptionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "USES", 3)
    cache.put(key("cat"), content(), "0")
    assert [cache.get(key("cat"), str(n)) is not None for n in (1, 2, 3)] == [True, True, False]
    assert len(cache) == 0
