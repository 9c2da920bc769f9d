"""Words and their ids: splits captions, keeps the vocabulary, reads and writes `tokenizer.p`.

The file is a pickle, as in the original, but nothing in it is ever executed: it is read by an
unpickler that admits plain containers, and for the original's own file the four globals which a
pickled Keras `Tokenizer` names, each mapped to an inert stand-in. Keras itself is not needed.

This is not a sub-word tokenizer: a word which is not in the vocabulary becomes `Tokenizer.UNK`.
"""

from __future__ import annotations

import html
import io
import pickle
import pickletools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from captioner.errors import TokenizerError

MAX_FILE_BYTES = 16_000_000  # some 300,000 words in Keras's format, a million in ours

_FORMAT = "captioner tokenizer 1"


class Tokenizer:
    """A vocabulary: words by id, the four special tokens first.

    `words` is the list of all tokens by id; `words[:4]` are the specials, whose names cannot come
    out of `split`. `len(tokenizer)` is the vocabulary size, specials included.
    """

    PAD, START, END, UNK = range(4)
    SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")

    def __init__(self, words: Sequence[str]) -> None:
        """Take `words` without the specials, the first of which gets id 4.

        Raises TokenizerError when a word is empty, has white space in it, or comes twice.
        """
        self.words = [*self.SPECIALS, *words]
        for word in words:
            if not isinstance(word, str) or not word or word.split() != [word]:
                raise TokenizerError(
                    f"The vocabulary holds {word!r:.80}, which is not a word; "
                    "make the tokenizer again from the captions."
                )
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            twice = next(w for w, n in Counter(self.words).items() if n > 1)
            raise TokenizerError(
                f"The vocabulary holds {twice!r:.80} twice; "
                "make the tokenizer again from the captions."
            )

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def fit(
        cls,
        captions: Iterable[str],
        min_count: int,
        texts: Iterable[str] = (),
        min_text_count: int = 1,
    ) -> Tokenizer:
        """Take the words that are frequent enough, the most frequent first, ties by name.

        Args:
            captions: of photos; a word counts that they hold `min_count` times or more.
            texts: captions without photos; a word counts, too, that they hold `min_text_count`
                times or more.
        """
        counts = Counter(word for caption in captions for word in cls.split(caption))
        in_texts = Counter(word for caption in texts for word in cls.split(caption))
        kept = {word for word, count in counts.items() if count >= min_count}
        kept |= {word for word, count in in_texts.items() if count >= min_text_count}
        return cls(sorted(kept, key=lambda word: (-counts[word], -in_texts[word], word)))

    def extended(self, words: Iterable[str]) -> Tokenizer:
        """This vocabulary with the new ones of `words` behind it, so that ids stay as they are."""
        own = self.words[len(self.SPECIALS) :]
        return Tokenizer([*own, *(word for word in words if word not in self._ids)])

    def encode(self, text: str) -> list[int]:
        """The ids of the words of `text`, without START and END; an unknown word becomes UNK."""
        return [self._ids.get(word, self.UNK) for word in self.split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words joined by spaces, up to the first END; PAD, START and UNK are left out.

        This is the form that the standard scores take ("the dog 's bowl"). Raises ValueError for
        an id outside the vocabulary.
        """
        words = []
        for i in ids:
            if i == self.END:
                break
            if not 0 <= i < len(self.words):
                raise ValueError(f"id {i} is outside the vocabulary of {len(self.words)} tokens")
            if i not in (self.PAD, self.START, self.UNK):
                words.append(self.words[i])
        return " ".join(words)

    @staticmethod
    def split(text: str) -> list[str]:
        """Split a caption as the Penn Treebank tokenizer of the standard scores does.

        Lower case, punctuation dropped, contractions apart: "Don't, dog's" -> do n't dog 's. On
        189,862 captions of Flickr8k, Flickr30k and MS COCO, 99.9 % come out exactly as from
        Stanford's PTBTokenizer in `pycocoevalcap`. On purpose not alike: brackets, which it turns
        into words ("-lrb-"), and runs of marks ("!!!"), which it keeps, are dropped here, since no
        caption should ever contain them.
        """
        text = unicodedata.normalize("NFC", html.unescape(text)).lower().translate(_PLAIN_MARKS)
        words: list[str] = []
        for token in _TOKEN.findall(text):
            if token in _COMPOUNDS:
                words += _COMPOUNDS[token]
            elif clitic := _CLITIC.search(token):
                words += [token[: clitic.start()], clitic[0]]
            else:
                words.append(token)
        return words

    def to_bytes(self) -> bytes:
        """The content of a `tokenizer.p`: the same vocabulary gives the same bytes."""
        content = {"format": _FORMAT, "words": self.words[len(self.SPECIALS) :]}
        return pickle.dumps(content, protocol=4)

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.p`, ours or the original's; raises TokenizerError."""
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise TokenizerError(
                f"The tokenizer {str(path)!r} cannot be read ({error.strerror}); "
                "check the path, or make the model folder again."
            ) from None
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "tokenizer.p") -> Tokenizer:
        """Read the content of a `tokenizer.p`; `name` is what errors call it.

        From a Keras tokenizer the words are taken in Keras's order, but with our ids: its start
        and end markers ("startseq" and "endseq", or "start" and "end") and its out-of-vocabulary
        token give way to START, END and UNK. Raises TokenizerError.
        """
        if len(data) > MAX_FILE_BYTES:
            raise TokenizerError(
                f"The tokenizer {name!r} is larger than {MAX_FILE_BYTES // 1_000_000} MB, "
                "which no vocabulary needs; use the file that training wrote."
            )
        content, keras_class = _unpickle(data, name)
        if isinstance(content, keras_class):
            return cls(_keras_words(vars(content), name))
        if isinstance(content, dict) and content.get("format") == _FORMAT:
            words = content.get("words")
            if isinstance(words, list):
                return cls(words)
        raise TokenizerError(
            f"The file {name!r} is a pickle but holds no tokenizer; "
            "use the tokenizer.p that training wrote."
        )


_PLAIN_MARKS = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'"})

# findall: no group may capture.
_TOKEN = re.compile(
    r"""
      \d+(?:[.,:]\d+)+(?:(?=[ap]m\b)|(?!\w))        # 3.5, 10,000, 12:30, and 7:00 of 7:00pm
    | (?:mr|mrs|ms|dr|st|jr|sr|vs|no)\.(?=\s+\w)    # abbreviations keep their full stop
    | (?:[^\W\d_]\.){2,}                            # so do u.s. and t.v.
    | '(?:tis|twas)\b
    | '(?:s|m|d|re|ve|ll|t)(?!\w)                   # separate clitics: dog 's
    | '(?:n'|em\b|\d\ds\b)                          # rock 'n' roll, 'em, '90s
    | @?\w+(?:['/&@_.-]+\w+)*                       # words, t-shirt, black/white, o'clock, at&t
    | [$%&#@*+=]                                    # words by themselves: $ 5, 50 %
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(?<=\w)(?:n't|'(?:s|m|d|re|ve|ll))$")
_COMPOUNDS = {
    "cannot": ["can", "not"],
    "gimme": ["gim", "me"],
    "gonna": ["gon", "na"],
    "gotta": ["got", "ta"],
    "lemme": ["lem", "me"],
    "wanna": ["wan", "na"],
    "'tis": ["'t", "is"],
    "'twas": ["'t", "was"],
}


# What a pickle of plain containers and of a Keras tokenizer is made of (protocols 2 to 5). Left out
# on purpose: tuples of two and more, whose hash can cost exponential time, and long integers.
# fmt: off
_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE1",
    "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD",
})
# fmt: on
_MAX_TUPLES = 16  # a Keras tokenizer has two; nested ones are hashed recursively, in C, unchecked

_KERAS_MODULES = (
    "keras.preprocessing.text",
    "keras_preprocessing.text",
    "keras.src.preprocessing.text",
    "keras.src.legacy.preprocessing.text",
    "keras.legacy.preprocessing.text",
    "tensorflow.keras.preprocessing.text",
    "tensorflow.python.keras.preprocessing.text",
    "tensorflow_core.python.keras.preprocessing.text",
    "tf_keras.preprocessing.text",
    "tf_keras.src.preprocessing.text",
)


def _unpickle(data: bytes, name: str) -> tuple[Any, type]:
    """The object in `data`, and the class that replaces a Keras tokenizer."""

    # Made anew for each file: a pickle can set attributes of the classes that it names.
    class KerasTokenizer:
        pass

    class OrderedDict(dict[Any, Any]):
        def __init__(self) -> None:
            super().__init__()

    class DefaultDict(dict[Any, Any]):
        def __init__(self, _factory: object) -> None:
            super().__init__()

    class Int:
        def __init__(self) -> None:
            raise pickle.UnpicklingError("int is named, never called")

    admitted = {(module, "Tokenizer"): KerasTokenizer for module in _KERAS_MODULES} | {
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): DefaultDict,
        ("builtins", "int"): Int,
        ("__builtin__", "int"): Int,
        ("__builtin__", "long"): Int,  # what protocol 2 calls int
    }

    class RestrictedUnpickler(pickle.Unpickler):
        def find_class(self, module: str, attribute: str) -> type:
            # Looked up whole, never by getattr: protocol 4 admits dotted attributes.
            if (module, attribute) not in admitted:
                raise TokenizerError(
                    f"The file {name!r} asks for {f'{module}.{attribute}'!r:.100}, which no "
                    "tokenizer needs, and was not loaded; do not trust where it came from."
                )
            return admitted[module, attribute]

    try:
        _check_opcodes(data, name)
        return RestrictedUnpickler(io.BytesIO(data)).load(), KerasTokenizer
    except TokenizerError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise TokenizerError(
            f"The tokenizer {name!r} is damaged or cut short ({type(error).__name__}); "
            "copy it again from where the model came from."
        ) from None


def _check_opcodes(data: bytes, name: str) -> None:
    """Refuse before loading what could run code, take memory or time beyond the file's size."""
    tuples = 0
    for opcode, argument, position in pickletools.genops(data):
        tuples += opcode.name == "TUPLE1"
        # pickle allocates its memo up to the largest index named, however few there are
        memo_bomb = opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > (
            position or 0
        )
        if opcode.name not in _OPCODES or tuples > _MAX_TUPLES or memo_bomb:
            raise TokenizerError(
                f"The file {name!r} holds a pickle instruction ({opcode.name}) in a place where no "
                "tokenizer has it, and was not loaded; do not trust where it came from."
            )


def _keras_words(state: dict[str, Any], name: str) -> list[str]:
    """The words of a pickled Keras tokenizer in the order of its ids, without its markers."""
    index, num_words, oov = (state.get(k) for k in ("word_index", "num_words", "oov_token"))
    if (
        not isinstance(index, dict)
        or not index
        or not all(type(w) is str and type(i) is int for w, i in index.items())
        or not (num_words is None or type(num_words) is int)
    ):
        raise TokenizerError(
            f"The Keras tokenizer {name!r} has no usable word_index; "
            "fit it on the captions before it is saved."
        )
    words = sorted(index, key=lambda word: index[word])
    if num_words:
        words = [word for word in words if index[word] < num_words]
    markers: set[object] = {*Tokenizer.SPECIALS, oov}
    for pair in (("<start>", "<end>"), ("startseq", "endseq"), ("start", "end")):
        if index.keys() >= set(pair):
            markers |= set(pair)
            break
    return [word for word in words if word not in markers]
