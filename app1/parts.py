"""The parts of app1's process, and their start and end."""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flask import current_app

from app1.captioning import CaptionService
from app1.guards import DeleteTokens, RateLimiter
from app1.metrics import Metrics
from app1.outbox import Outbox
from app1.publisher import Connection, Publisher, RelayConnection
from app1.review import Review
from app1.workers import CaptionWorkers
from captioner.cores import usable_cores
from common.errors import CaptionerError, SettingsError
from common.settings import Settings
from common.state import host_token, make_state_folder, publisher_token, shared_secret

if TYPE_CHECKING:
    from captioner import Captioner

log = logging.getLogger("app1")


class App1:
    """The parts of the process.

    Args:
        load: makes the captioners, one for each worker; those of the settings when left out.
        loaded: called when the model is warm, with None, or with the error if it cannot be loaded.
        connect: makes a connection to the relay; one of Socket.IO when left out.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Sequence[Captioner]] | None = None,
        loaded: Callable[[CaptionerError | None], None] = lambda error: None,
        connect: Callable[[Callable[[], None]], Connection] | None = None,
    ) -> None:
        self.settings = settings
        token = publisher_token(settings)
        count = settings.captioner_workers or usable_cores()
        self.workers = CaptionWorkers(
            load or (lambda: _load_model(settings, count)), count, settings.captioner_queue, loaded
        )
        self.outbox = Outbox(make_state_folder(settings) / "outbox.db", settings.relay_keep)
        self.review = Review(settings.captioner_state / "review.db", settings.relay_keep)
        self.publisher = Publisher(
            self.outbox,
            connect or (lambda ended: RelayConnection(settings.relay_url, token, ended)),
            corrected=self._keep_correction,
        )
        self.service = CaptionService(settings, self.workers, self.publisher, self.review)
        self.limiter = RateLimiter(settings.captioner_rate)
        self.tokens = DeleteTokens(_delete_secret(settings))
        self._host_token = _host_token(settings)
        self.metrics = Metrics(self.workers, self.publisher)

    def is_host(self, token: str) -> bool:
        """Whether this is the host's token."""
        own = self._host_token
        return bool(own) and hmac.compare_digest(token.encode(errors="replace"), own.encode())

    def start(self) -> None:
        self.workers.start()
        self.publisher.start()

    def stop(self) -> None:
        """Finish what was accepted, and leave what is not published yet in the outbox."""
        self.workers.stop()
        self.publisher.stop()
        self.outbox.close()
        self.review.close()

    def _keep_correction(self, caption: dict[str, Any]) -> None:
        """Keep what a person wrote, of a caption as the relay has it."""
        if "by" in caption:
            picture = caption.get("thumbnail", "").partition(",")[2]
            self.review.keep_correction({**caption, "thumbnail": base64.b64decode(picture)})


def parts() -> App1:
    """Those of the application that answers the request."""
    own: App1 = current_app.extensions["app1"]
    return own


def _load_model(settings: Settings, count: int) -> Sequence[Captioner]:
    """Captioners of the settings, warm: the first caption takes no longer than others."""
    import numpy as np

    from captioner import Captioner

    captioners = Captioner.load_several(
        count, settings.captioner_model, words=settings.captioner_words
    )
    for captioner in captioners:
        captioner.caption_rgb(np.full((299, 299, 3), 127, np.uint8))
    return captioners


def _host_token(settings: Settings) -> str:
    try:
        return host_token(settings)
    except SettingsError as error:
        log.warning("%s Until then, nobody can be the host.", error)
        return ""


def _delete_secret(settings: Settings) -> bytes:
    """The key of the delete tokens: the secret in the state folder, which outlives this process.

    It is not RELAY_TOKEN: people choose that one, and a delete token would help to guess it.
    """
    try:
        return shared_secret(settings).encode()
    except SettingsError as error:
        log.warning("%s Until then, delete tokens are valid for this run only.", error)
        return secrets.token_bytes(32)
