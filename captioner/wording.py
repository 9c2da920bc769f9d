"""Which words captions may use, and the rules of alternative texts.

Words are replaced one by one, so that each keeps its probability and its attention. What a caption
says of "his" or "her" changes with the person: "a man with his dog" becomes "a person with their
dog". Barred words are ruled out in the search itself, so that the sentence stays a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captioner.errors import CaptionerError

MAX_ALT_TEXT = 125  # characters, the limit that content management systems agree on
_MAX_FILE_BYTES = 1_000_000

# Coarse words, and words for people that are insults in most mouths. Never in a caption.
_COARSE = """
ass asshole bastard bitch boob boobs bullshit butt cock coon cunt damn dick dyke fag faggot fuck
fucking gook gypsy hooker homo jap kike midget nazi negro nigga nigger nipple nipples nude naked
penis porn prostitute pussy queer retard retarded sexy shit slut spastic spic stripper tit tits
tranny vagina whore
"""
COARSE = frozenset(_COARSE.split())
# A person's gender is a guess; alternative texts do without it.
NEUTRAL = {
    **dict.fromkeys(("man", "woman", "lady", "guy", "gentleman", "male", "female"), "person"),
    **dict.fromkeys(("men", "women", "ladies", "guys", "gentlemen", "males", "females"), "people"),
    **dict.fromkeys(("boy", "girl"), "child"),
    **dict.fromkeys(("boys", "girls"), "children"),
    **dict.fromkeys(("businessman", "businesswoman"), "person"),
    **dict.fromkeys(("waitress", "waiter"), "server"),
    **dict.fromkeys(("policeman", "policewoman"), "officer"),
    **dict.fromkeys(("fisherman",), "fisher"),
    **dict.fromkeys(("father", "mother"), "parent"),
}
_GENDERED = frozenset(NEUTRAL)
_PRONOUNS = {
    "his": "their", "her": "their", "hers": "theirs", "he": "they", "she": "they", "him": "them",
    "himself": "themselves", "herself": "themselves",
}  # fmt: skip
_OPENING = re.compile(
    r"^(an? |the )?((black and white|blurry|close[- ]up) )?"
    r"(image|picture|photo|photograph|view|shot) (of|showing) ",
    re.IGNORECASE,
)


class WordsFileError(CaptionerError):
    """A file of words cannot be used."""

    title = "The file of words cannot be used"
    exit_status = 2


@dataclass(frozen=True)
class WordRules:
    """Replacements of words, and words that no caption may have.

    Attributes:
        replacements: lower case, from a word to another.
        barred: lower case.
    """

    replacements: Mapping[str, str] = field(default_factory=dict)
    barred: frozenset[str] = COARSE

    @classmethod
    def read(cls, file: str | Path) -> WordRules:
        """Reads a file of lines such as `man = person`; `word =` bars a word; `#` begins a comment.

        Raises:
            WordsFileError: it cannot be read, or a line has another form.
        """
        try:
            with open(file, "rb") as stream:
                text = stream.read(_MAX_FILE_BYTES + 1).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise WordsFileError(f"{file} (CAPTIONER_WORDS) cannot be read: {reason}.") from None
        replacements, barred = {}, set(COARSE)
        for number, line in enumerate(text.splitlines(), 1):
            line = line.partition("#")[0].strip().lower()
            if not line:
                continue
            before, equals, after = (part.strip() for part in line.partition("="))
            words = (before, after) if after else (before,)
            if not equals or not all(re.fullmatch(r"[\w'-]+", word) for word in words):
                raise WordsFileError(
                    f"Line {number} of {file} (CAPTIONER_WORDS) is not 'from = to' with one word "
                    "on each side."
                )
            if after:
                replacements[before] = after
                barred.discard(before)
            else:
                barred.add(before)
        return cls(replacements, frozenset(barred))

    def neutral(self) -> WordRules:
        """With words for people that do not guess their gender."""
        return WordRules({**NEUTRAL, **self.replacements}, self.barred)

    def applied(self, words: Sequence[str]) -> list[str]:
        """The words, each replaced where a rule says so, with articles and pronouns that fit."""
        found = [self.replacements.get(word, word) for word in words]
        changed = [own != word for own, word in zip(found, words, strict=True)]
        if any(c and word in _GENDERED for c, word in zip(changed, words, strict=True)):
            found = [
                own if word in self.replacements else _PRONOUNS.get(own, own)
                for own, word in zip(found, words, strict=True)
            ]
        for i in range(len(found) - 1):
            if changed[i + 1] and found[i] in ("a", "an"):
                found[i] = "an" if found[i + 1][:1] in "aeiou" else "a"
        return found


def alt_text(caption: str) -> str:
    """A caption as an alternative text.

    At most `MAX_ALT_TEXT` characters, no "image of", and a full stop at the end.
    """
    text = _OPENING.sub("", caption).strip().rstrip(".!?")
    if len(text) + 1 > MAX_ALT_TEXT:
        text = text[:MAX_ALT_TEXT].rsplit(" ", 1)[0].rstrip(" ,")
    return f"{text[:1].upper()}{text[1:]}." if text else ""
