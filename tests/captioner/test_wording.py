"""Replaced and barred words, and alternative texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from captioner import Captioner
from captioner.wording import COARSE, MAX_ALT_TEXT, WordRules, WordsFileError, alt_text


@pytest.mark.parametrize(
    ("words", "neutral"),
    [
        ("a man is holding his dog", "a person is holding their dog"),
        ("two women and a boy", "two people and a child"),
        ("a dog with its ball", "a dog with its ball"),
        ("an old man by himself", "an old person by themselves"),
        ("her cat", "her cat"),
    ],
)
def test_neutral_words(words: str, neutral: str) -> None:
    assert WordRules().neutral().applied(words.split()) == neutral.split()


def test_articles_fit_the_new_word() -> None:
    rules = WordRules({"dog": "animal", "apple": "fruit"})
    assert rules.applied(["a", "dog", "and", "an", "apple"]) == [
        "an",
        "animal",
        "and",
        "a",
        "fruit",
    ]


def test_a_file_of_words(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# ours\nMan = person\nskateboard =\n\ncouch = sofa # British\n")
    rules = WordRules.read(file)
    assert rules.replacements == {"man": "person", "couch": "sofa"}
    assert rules.barred == COARSE | {"skateboard"}
    assert WordRules.read(file).neutral().replacements["woman"] == "person"


@pytest.mark.parametrize("line", ["man", "man > person", "a man = person", "= person", "a = b = c"])
def test_a_line_of_another_form(tmp_path: Path, line: str) -> None:
    file = tmp_path / "words.txt"
    file.write_text(f"dog = cat\n{line}\n")
    with pytest.raises(WordsFileError, match=r"Line 2 of .*words\.txt \(CAPTIONER_WORDS\)"):
        WordRules.read(file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(WordsFileError, match=r"No such file"):
        WordRules.read(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(WordsFileError, match="not UTF-8"):
        WordRules.read(tmp_path / "bytes")


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A picture of a dog.", "A dog."),
        ("A close up of a cat.", "A close up of a cat."),
        ("A black and white photo of a train", "A train."),
        ("A dog.", "A dog."),
        ("", ""),
    ],
)
def test_alternative_texts(caption: str, text: str) -> None:
    assert alt_text(caption) == text


def test_an_alternative_text_is_cut_between_words() -> None:
    text = alt_text("word " * 50)
    assert len(text) <= MAX_ALT_TEXT
    assert text.endswith("word.")


def test_barred_words_are_searched_around(tiny_model: Path, tmp_path: Path) -> None:
    """The word is not cut out of the sentence: another sentence is found."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (20, 30, 3), np.uint8) for _ in range(10)]
    usual = Captioner.load(tiny_model)
    said = {word.word for p in pictures for word in usual.caption(p).words}
    file = tmp_path / "words.txt"
    barred, replaced = sorted(said)[:2]
    file.write_text(f"{barred} =\n{replaced} = thing\n")
    ours = Captioner.load(tiny_model, words=file)
    captions = [ours.caption(p) for p in pictures]
    words = {word.word for caption in captions for word in caption.words}
    assert not {barred, replaced} & words
    assert "thing" in words
    assert all(caption.text for caption in captions)
    for caption in captions:
        texts = [candidate.text for candidate in caption.candidates]
        assert len(texts) == len(set(texts))


def test_the_style_of_alternative_texts(tiny_model: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (20, 30, 3), np.uint8)
    captioner = Captioner.load(tiny_model)
    caption, alt = captioner.caption(picture), captioner.caption(picture, style="alt")
    assert alt.text == caption.alt_text
    assert alt.text.endswith(".")
