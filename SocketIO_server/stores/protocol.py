"""What the relay needs of a store: the captions, and a log of all changes.

Publishers change the store, and each change goes into its log. Relays follow the log and broadcast
what they find there, and nothing else: so all viewers of a store get the same, in the same order.

Every store promises: `append` and `forget` return when the change is safe from a crash. The same
`id` is kept once, also when it comes again after it was forgotten or made room for newer captions.
`seq` never goes back. The log has one order, and captions are in it in the order of `seq`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from SocketIO_server.messages import Message, Thumbnail

# Ids of captions that left the store. A publisher that sends one again, because its acknowledgement
# got lost, must not bring it back, and a viewer that was away must learn what was forgotten.
IDS_REMEMBERED = 100_000
FORGOTTEN_LISTED = 1_000
CORRECTIONS_LISTED = 1_000


class StoreError(Exception):
    """The store cannot be read or written now; `str(error)` is a sentence with the reason."""


class PositionLostError(StoreError):
    """The log does not reach back to this position, or has lost it."""


@dataclass(frozen=True)
class Work:
    """A photo that is being captioned.

    Attributes:
        owner: the publisher, as "RELAY SID".
        payload: of the event `captioning` that viewers get.
    """

    owner: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """An entry of the log.

    Attributes:
        position: in the log.
        kind: the event that viewers get: `prediction` for a new caption, `corrected`, `forget`,
            `captioning` or `captioning_failed`. The relay passes on any other kind as well, also to
            a viewer whose history is still on its way.
        id: of the caption; "" where the publisher gave none.
        payload: of the event. None when a later entry makes it obsolete, or when the caption has
            already made room for newer ones.
        seq: of a new caption, else 0.
        owner: of work that has begun, else "".
    """

    position: str
    kind: str
    id: str
    payload: dict[str, Any] | None
    seq: int = 0
    owner: str = ""


@dataclass(frozen=True)
class Beginning:
    """The state at one position of the log.

    Attributes:
        position: in the log.
        seq: of the newest caption.
        working: by id, the photos that are being captioned.
    """

    position: str
    seq: int
    working: dict[str, Work]


class Store(Protocol):
    """Captions and their log. Safe to use from several tasks or threads.

    Every method but `close` may raise `StoreError`.
    """

    def open(self) -> None:
        """Make sure that the store can be used; other calls open it too, when needed."""

    def close(self) -> None:
        """Close it; the next call opens it again."""

    # What publishers change

    def append(self, message: Message) -> tuple[int, bool]:
        """Keep a caption: its number, and whether it is new (else its `id` was there before)."""

    def forget(self, identifier: str) -> None:
        """Remove a caption for good, and never take it again; an unknown `id` is remembered too."""

    def correct(self, identifier: str, correction: Mapping[str, Any]) -> dict[str, Any] | None:
        """Put a person's words, or approval, into a caption; see `corrected`.

        Returns:
            The caption as viewers get it from now on; None where there is none of this `id`.
        """

    def begin_work(self, identifier: str, work: Work, instead_of: str = "") -> None:
        """Work on a photo has begun. Does nothing if its caption is or was here.

        Args:
            instead_of: id of a photo whose work is no longer listed, to make room.
        """

    def fail_work(self, identifier: str, error: str, only_if_begun: bool = False) -> None:
        """Work on a photo has failed; `error` is a sentence with the reason."""

    # What viewers read

    def after(
        self, seq: int, limit: int, max_bytes: int | None = None, words: Iterable[str] = ()
    ) -> tuple[list[dict[str, Any]], bool]:
        """Captions after number `seq`, oldest first, as viewers get them; and if there are more.

        Args:
            limit: captions at most.
            max_bytes: stop after the caption that takes the sum of their sizes beyond this.
            words: each of them, in lower case, has to begin a word of the caption.
        """

    def before_last(self, count: int, words: Iterable[str] = (), before: int = 2**62) -> int:
        """The number after which the newest `count` captions (that hold `words`) come.

        Args:
            before: leave out those from this number on.
        """

    def forgotten(self, seq: int) -> list[str]:
        """Ids of captions up to number `seq` that were forgotten, the newest FORGOTTEN_LISTED."""

    def corrections(self, seq: int) -> list[dict[str, Any]]:
        """The events `corrected` of captions up to number `seq`, the newest CORRECTIONS_LISTED."""

    def has_seen(self, identifier: str) -> bool:
        """Whether a caption of this `id` is or was here, or was forgotten before it came."""

    def last_seq(self) -> int:
        """The number of the newest caption that there ever was; 0 for none."""

    def oldest_seq(self) -> int:
        """The number of the oldest caption that is here; the next number if none is."""

    def count(self) -> int:
        """Captions that are here now."""

    # What the relay follows

    def beginning(self) -> Beginning:
        """The state now, from which the log can be followed."""

    def changes(self, position: str) -> list[Change]:
        """The next changes after a position in the log; none if there are none yet.

        Raises:
            PositionLostError: the position is no longer in the log.
        """

    def wait(self, position: str, seconds: float) -> None:
        """Return when another process has made a change after a position, or after `seconds`."""

    def heartbeat(self, relay: str, seconds: int, others: set[str]) -> set[str]:
        """Give a heartbeat of this relay; which of the others have given none lately.

        Args:
            seconds: until the heartbeat expires.
        """


def search_words(text: str) -> list[str]:
    """The words of a caption, or of a search, in lower case and without punctuation."""
    return re.findall(r"\w+", text.casefold())


def words_column(fields: Mapping[str, Any]) -> str:
    """The words of a caption as a store keeps them: " two dogs run"."""
    return "".join(f" {word}" for word in search_words(fields["caption"]))


def corrected(fields: Mapping[str, Any], correction: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a caption with a person's words; `model_caption` keeps the model's.

    Args:
        correction: `caption`, `by` and `approved`, each of which may be missing.
    """
    changed = {**fields, **({"approved": True} if correction.get("approved") else {})}
    if correction.get("caption", "").strip():
        changed.setdefault("model_caption", changed["caption"])
        changed["caption"] = correction["caption"]
        changed["by"] = correction.get("by", "")
    return changed


def correction_of(caption: Mapping[str, Any]) -> dict[str, Any]:
    """The event `corrected` of a caption as it is now. An empty text: the model's words stay."""
    is_changed = "by" in caption
    return {
        "id": caption["id"],
        "caption": caption["caption"] if is_changed else "",
        "by": caption.get("by", ""),
        "approved": caption.get("approved", False),
    }


def payload_of(seq: int, fields: str | bytes, thumbnail: Thumbnail | None) -> dict[str, Any]:
    """A caption as viewers get it, from what a store has kept.

    Args:
        fields: JSON of the message without its thumbnail.
    """
    return Message(fields_of(fields), thumbnail).payload(seq=seq)


def fields_of(text: str | bytes) -> dict[str, Any]:
    """The fields of a caption from their JSON."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):  # it keeps its place, so that counting and paging go on
        return {"caption": "(This caption is damaged in the history.)"}
