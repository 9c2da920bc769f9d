"""Tests of the tokenizer: how captions are split, and what a tokenizer file may and may not do."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import random
import shutil
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path
from typing import Any

import pytest

from captioner.errors import CaptionerError, TokenizerError
from captioner.tokenizer import MAX_FILE_BYTES, Tokenizer

# Captions and their words, as pycocoevalcap's PTBTokenizer gives them (test_split_is_ptb asks it).
SPLITS = {
    "A man , and a woman .": "a man and a woman",
    "The dog's t-shirt.": "the dog 's t-shirt",
    "The dog 's bowl": "the dog 's bowl",
    "The dog\u2019s bowl": "the dog 's bowl",
    "Two men's dogs' bowls.": "two men 's dogs bowls",
    "Don't stop; they can't, won't and shouldn't.": (
        "do n't stop they ca n't wo n't and should n't"
    ),
    "do n't": "do n't",
    "He's there, they're here, I'm, you've, we'll, she'd.": (
        "he 's there they 're here i 'm you 've we 'll she 'd"
    ),
    "cannot gonna gotta wanna lemme gimme 'tis 'twas": (
        "can not gon na got ta wan na lem me gim me 't is 't was"
    ),
    "rock 'n' roll at five o'clock, ma'am": "rock 'n' roll at five o'clock ma'am",
    "Four 4 dogs run 10,000 m in 3.5 hours at 12:30.": (
        "four 4 dogs run 10,000 m in 3.5 hours at 12:30"
    ),
    "Jeep's 4x4 2nd 1st 3-D 24-7 7:00pm": "jeep 's 4x4 2nd 1st 3-d 24-7 7:00 pm",
    "1/2 of a 3-year-old's pizza, 1990s and '90s.": "1/2 of a 3-year-old 's pizza 1990s and '90s",
    "It costs $5 and 50% off #1 @home.": "it costs $ 5 and 50 % off # 1 @home",
    "A sign says \"Stop here\", 'really' ``now''.": "a sign says stop here really now",
    "A \u201ccurly\u201d \u2018quote\u2019 \u2014 dash \u2013 en\u2026 ellipsis": (
        "a curly quote dash en ellipsis"
    ),
    "A black/white cat and/or dog.": "a black/white cat and/or dog",
    "Tom & Jerry's AT&T logo": "tom & jerry 's at&t logo",
    "Tom &amp; Jerry": "tom & jerry",
    "A caf\u00e9 with a na\u00efve fa\u00e7ade and Pel\u00e9.": (
        "a caf\u00e9 with a na\u00efve fa\u00e7ade and pel\u00e9"
    ),
    "A well-known red-haired girl - or boy -- plays...": (
        "a well-known red-haired girl or boy plays"
    ),
    "Mr. Smith lives in the U.S. and works at St. Mary's.": (
        "mr. smith lives in the u.s. and works at st. mary 's"
    ),
    "a boy,a girl": "a boy a girl",
    "One dog\nand another\tone": "one dog and another one",
    "   ": "",
    "": "",
    " .,;:!? ": "",
}


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(["a", "dog", "'s", "bowl"])


@pytest.mark.parametrize(("caption", "words"), SPLITS.items())
def test_split(caption: str, words: str) -> None:
    assert Tokenizer.split(caption) == words.split()


def test_split_keeps_no_mark_that_the_scorer_would_turn_into_a_word() -> None:
    words = Tokenizer.split("Two girls (one in blue) [sic] play {well}!!!")
    assert " ".join(words) == "two girls one in blue sic play well"


@pytest.mark.parametrize("caption", SPLITS)
def test_split_of_split_words_changes_nothing(caption: str) -> None:
    words = Tokenizer.split(caption)
    assert Tokenizer.split(" ".join(words)) == words


@pytest.mark.java
def test_split_is_ptb() -> None:
    if shutil.which("java") is None:
        pytest.skip("no Java: the reference tokenizer cannot run")
    ptb = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    captions = [" ".join(c.split()) for c in SPLITS if Tokenizer.split(c)]
    asked = {i: [{"caption": caption}] for i, caption in enumerate(captions)}
    given = ptb.PTBTokenizer().tokenize(asked)
    assert {c: given[i][0].split() for i, c in enumerate(captions)} == {
        c: Tokenizer.split(c) for c in captions
    }


def test_fit_orders_words_by_count_then_name() -> None:
    tokenizer = Tokenizer.fit(["a red dog", "A dog.", "a cat", "one red cat"], min_count=2)
    assert tokenizer.words == ["<pad>", "<start>", "<end>", "<unk>", "a", "cat", "dog", "red"]
    assert len(tokenizer) == 8


def test_encode_and_decode(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("A cat's bowl.")
    assert ids == [4, Tokenizer.UNK, 6, 7]
    assert tokenizer.decode(ids) == "a 's bowl"
    assert tokenizer.decode([Tokenizer.START, 4, 5, Tokenizer.END, 7, Tokenizer.PAD]) == "a dog"
    assert tokenizer.decode([]) == ""


def test_special_tokens_cannot_be_written_in_a_caption(tokenizer: Tokenizer) -> None:
    assert set(tokenizer.encode("<pad> <start> <end> <unk>")) == {Tokenizer.UNK}


@pytest.mark.parametrize("outside", [-1, 8])
def test_decode_refuses_an_id_outside(tokenizer: Tokenizer, outside: int) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary of 8"):
        tokenizer.decode([4, outside])


@pytest.mark.parametrize("words", [["dog", "dog"], ["a dog"], [""], ["<end>"], [7]])
def test_a_vocabulary_that_cannot_be(words: list[str]) -> None:
    with pytest.raises(TokenizerError, match="make the tokenizer again"):
        Tokenizer(words)


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.p")
    loaded = Tokenizer.load(tmp_path / "tokenizer.p")
    assert loaded.words == tokenizer.words
    assert loaded.encode("a dog's bowl") == [4, 5, 6, 7]
    assert loaded.to_bytes() == (tmp_path / "tokenizer.p").read_bytes()


def test_the_file_is_a_pickle_of_plain_containers(tokenizer: Tokenizer) -> None:
    content = pickle.loads(tokenizer.to_bytes())  # noqa: S301
    assert content["words"] == ["a", "dog", "'s", "bowl"]


def test_a_large_vocabulary_loads(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(70_000)]  # more than 65,536: another memo opcode
    Tokenizer(words).save(tmp_path / "tokenizer.p")
    assert Tokenizer.load(tmp_path / "tokenizer.p").words[4:] == words


# --- The original's tokenizer.p -------------------------------------------------------------------


def keras_pickle(
    monkeypatch: pytest.MonkeyPatch,
    captions: list[str],
    module: str = "keras.src.preprocessing.text",
    protocol: int = 4,
    **state: Any,
) -> bytes:
    """A pickle of the shape that Keras's legacy Tokenizer leaves, made without Keras."""
    counts: collections.OrderedDict[str, int] = collections.OrderedDict()
    docs: collections.defaultdict[str, int] = collections.defaultdict(int)
    for caption in captions:
        for word in caption.split():
            counts[word] = counts.get(word, 0) + 1
            docs[word] += 1
    ordered = sorted(counts, key=lambda word: -counts[word])
    if state.get("oov_token"):
        ordered.insert(0, str(state["oov_token"]))
    keras_class = type("Tokenizer", (), {"__module__": module})
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(parts[i - 1]))
    monkeypatch.setattr(sys.modules[module], "Tokenizer", keras_class, raising=False)
    tokenizer = keras_class()
    vars(tokenizer).update(
        word_counts=counts,
        word_docs=docs,
        filters="!.",
        split=" ",
        lower=True,
        num_words=None,
        document_count=len(captions),
        char_level=False,
        oov_token=None,
        index_docs=collections.defaultdict(int, {1: 2}),
        word_index={word: i for i, word in enumerate(ordered, 1)},
        index_word=dict(enumerate(ordered, 1)),
    )
    vars(tokenizer).update(state)
    return pickle.dumps(tokenizer, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "module",
    [
        "keras.preprocessing.text",
        "keras_preprocessing.text",
        "tensorflow.keras.preprocessing.text",
        "tensorflow.python.keras.preprocessing.text",
        "keras.src.legacy.preprocessing.text",
    ],
)
def test_keras_tokenizer(monkeypatch: pytest.MonkeyPatch, module: str, protocol: int) -> None:
    data = keras_pickle(
        monkeypatch, ["start dog runs end", "start dog sits end"], module=module, protocol=protocol
    )
    tokenizer = Tokenizer.from_bytes(data)
    assert tokenizer.words == [*Tokenizer.SPECIALS, "dog", "runs", "sits"]
    assert tokenizer.encode("The dog runs.") == [Tokenizer.UNK, 4, 5]


def test_keras_markers_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["startseq start of race endseq", "startseq end of race endseq"]
    data = keras_pickle(monkeypatch, captions, oov_token="<unk>")
    words = Tokenizer.from_bytes(data).words[4:]
    assert words == ["of", "race", "start", "end"]  # ordinary words beside startseq and endseq
    data = keras_pickle(monkeypatch, captions, num_words=5)
    assert Tokenizer.from_bytes(data).words[4:] == ["of", "race"]


@pytest.mark.parametrize(
    "state",
    [
        {"word_index": {}},
        {"word_index": None},
        {"word_index": ["dog"]},
        {"word_index": {"dog": "1"}},
        {"word_index": {1: 1}},
        {"num_words": "5"},
        {"word_index": {"a dog": 1}},
    ],
)
def test_keras_tokenizer_without_usable_words(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]
) -> None:
    with pytest.raises(TokenizerError):
        Tokenizer.from_bytes(keras_pickle(monkeypatch, ["start dog end"], **state))


def test_real_keras_tokenizer(tmp_path: Path) -> None:
    """Keras's own class writes the file, in a process of its own, as in the original's notebook."""
    pytest.importorskip("keras", reason="Keras is not installed here")
    script = """
        import pickle, sys
        from keras.src.legacy.preprocessing.text import Tokenizer
        tokenizer = Tokenizer()
        tokenizer.fit_on_texts(["<start> two dogs run <end>", "<start> two boys run fast <end>"])
        pickle.dump(tokenizer, open(sys.argv[1], "wb"))
    """
    path = tmp_path / "tokenizer.p"
    made = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if "No module named" in made.stderr:
        pytest.skip("this Keras has no legacy Tokenizer")
    assert made.returncode == 0, made.stderr
    tokenizer = Tokenizer.load(path)
    assert tokenizer.words == [*Tokenizer.SPECIALS, "two", "run", "dogs", "boys", "fast"]


# --- Files that mean harm, or that came to harm ---------------------------------------------------


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"format": 1, "words": [bad]}])
@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (os.system, "touch {mark}"),
        (builtins.eval, "open({mark!r}, 'w')"),
        (builtins.exec, "open({mark!r}, 'w')"),
        (builtins.open, "{mark}"),
        (subprocess.Popen, "touch {mark}"),
    ],
)
def test_a_malicious_pickle_does_not_run(
    tmp_path: Path, function: object, argument: str, wrap: object, protocol: int
) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "tokenizer.p").write_bytes(
        pickle.dumps(wrap(Calls(function, argument.format(mark=str(mark)))), protocol)  # type: ignore[operator]
    )
    with pytest.raises(TokenizerError, match="was not loaded; do not trust"):
        Tokenizer.load(tmp_path / "tokenizer.p")
    assert not mark.exists()


def pickled_text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        # a dotted name that getattr would follow from an admitted class to the interpreter
        b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        b"\x80\x02ckeras.preprocessing.text\ntext_to_word_sequence\n.",
        # int called with a number whose digits take hours, and with anything at all
        b"\x80\x02cbuiltins\nint\n" + pickled_text("9" * 1_000_000) + b"\x85R.",
        b"\x80\x02cbuiltins\nint\n)R.",
        # defaultdict made with a factory to call, OrderedDict made from something to walk
        b"\x80\x02ccollections\ndefaultdict\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
        # an instance of a class from the extension registry, or found by a persistent id
        b"\x80\x02\x82\x01.",
        b"\x80\x02Nq\x00Q.",
        # attributes set on a class; state set on a dict
        b"\x80\x02ckeras.preprocessing.text\nTokenizer\n}X\x01\x00\x00\x00aK\x01sb.",
        # memo index of four thousand million: 64 GB are asked for to hold one reference
        b"\x80\x02]r\xff\xff\xff\xff.",
        # a string and a frame that say they are longer than memory
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f]}.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
        # tuples in tuples: one hash of which takes 2**60 steps, or all of the C stack
        b"\x80\x02}N" + b"q\x01h\x01\x86" * 60 + b"Ns.",
        b"\x80\x02}N" + b"\x85" * 1_000_000 + b"Ns.",
        # long integers whose hashes collide
        b"\x80\x02\x8a\x02\xff\x00.",
        # nothing to pop, nothing at all, no end
        b"\x80\x02.",
        b"",
        b".",
        b"\x80\x02]",
        b"\x80\x63].",
        b"not a pickle",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_a_hostile_or_damaged_file_gives_a_sentence(data: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(TokenizerError, match=r"^The .*\.$"):
        Tokenizer.from_bytes(data)
    assert time.monotonic() - started < 5


def test_a_truncated_file_gives_a_sentence(tokenizer: Tokenizer) -> None:
    data = tokenizer.to_bytes()
    for length in range(len(data)):
        with pytest.raises(TokenizerError, match=r"damaged or cut short|was not loaded"):
            Tokenizer.from_bytes(data[:length])


def test_mutated_files_give_a_tokenizer_or_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    originals = [
        Tokenizer(["a", "dog", "'s"]).to_bytes(),
        keras_pickle(monkeypatch, ["start dog runs end"]),
        keras_pickle(monkeypatch, ["start dog runs end"], protocol=2),
    ]
    for _ in range(3000):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            tokenizer = Tokenizer.from_bytes(bytes(data))
        except TokenizerError:
            continue
        assert all(isinstance(word, str) for word in tokenizer.words)


@pytest.mark.parametrize(
    "content", [None, [], {}, {"format": "captioner tokenizer 1"}, {"words": ["dog"]}, "dog", 7]
)
def test_a_pickle_of_something_else(content: object) -> None:
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        Tokenizer.from_bytes(pickle.dumps(content, protocol=4))


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.p"
    with open(path, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerError, match="larger than 16 MB"):
        Tokenizer.load(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.p", tmp_path):
        with pytest.raises(TokenizerError, match="cannot be read"):
            Tokenizer.load(path)
    assert issubclass(TokenizerError, CaptionerError)


def test_loading_leaves_the_pickle_module_as_it_was(tokenizer: Tokenizer) -> None:
    Tokenizer.from_bytes(tokenizer.to_bytes())
    ordered = collections.OrderedDict(a=1)
    assert pickle.loads(pickle.dumps(ordered)) == ordered  # noqa: S301


def test_words_of_texts_count_apart() -> None:
    captions, texts = ["a dog", "a dog", "a cat"], ["zebra runs"] * 3 + ["cat"]
    fitted = Tokenizer.fit(captions, 2, texts, 3)
    assert fitted.words[4:] == ["a", "dog", "runs", "zebra"]
    assert Tokenizer.fit(captions, 2).words[4:] == ["a", "dog"]


def test_new_words_come_behind_the_old_ones() -> None:
    old = Tokenizer(["a", "dog"])
    new = old.extended(["cat", "dog", "zebra"])
    assert new.words == [*old.words, "cat", "zebra"]
    assert old.words[4:] == ["a", "dog"]
