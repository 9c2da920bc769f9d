"""Who may upload: everybody who reaches the page, guests by the host's link, or the host alone."""

from __future__ import annotations

import hmac
import io
import json
import secrets
from dataclasses import asdict, dataclass, replace

import segno

from app1.problems import ForbiddenError
from app1.review import Review

UPLOADERS = ("everybody", "guests", "host")


@dataclass(frozen=True)
class Guests:
    """What the host has decided.

    Attributes:
        uploads: who may upload, one of UPLOADERS.
        token: the secret part of the guests' link; "" while there is none.
        on_wall: whether walls show the link.
    """

    uploads: str = "everybody"
    token: str = ""
    on_wall: bool = False

    @classmethod
    def read(cls, review: Review) -> Guests:
        """The host's decision, as it was kept."""
        text = review.mark("guests")
        return cls(**json.loads(text)) if text else cls()

    def keep(self, review: Review) -> None:
        review.set_mark("guests", json.dumps(asdict(self)))

    def changed(self, uploads: str, on_wall: bool, renew: bool) -> Guests:
        """Another decision. A link that has ended, or is renewed, never works again."""
        if uploads != "guests":
            return Guests(uploads)
        token = secrets.token_urlsafe(12) if renew or not self.token else self.token
        return replace(self, uploads=uploads, token=token, on_wall=on_wall)

    def is_link(self, token: str) -> bool:
        """Whether this is the token of the link that works now."""
        return bool(self.token) and hmac.compare_digest(
            token.encode(errors="replace"), self.token.encode()
        )

    def refusal(self, token: str) -> str:
        """Why somebody who shows this token and is not the host may not upload; "" if they may."""
        if self.uploads == "everybody" or self.is_link(token):
            return ""
        if self.uploads == "guests":
            return "Photos are taken by the host's link only; ask for it."
        return "The host takes no photos from others at the moment."

    def check(self, token: str) -> None:
        """Refuse an upload by somebody who shows this token and is not the host.

        Raises:
            ForbiddenError: with the sentence for the uploader.
        """
        if refusal := self.refusal(token):
            raise ForbiddenError(refusal)


def qr_code(url: str) -> bytes:
    """A QR code of an address, as SVG."""
    buffer = io.BytesIO()
    segno.make(url, error="m", micro=False).save(
        buffer, kind="svg", scale=8, border=3, dark="#131210", light="#fff", title=url
    )
    return buffer.getvalue()
