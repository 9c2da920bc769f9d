"""Captions for other programs: a webhook, and MQTT with Home Assistant's discovery."""

from __future__ import annotations

import time

from common.settings import Settings
from common.state import make_state_folder
from SocketIO_server.forwarding.follower import Follower, Receiver
from SocketIO_server.forwarding.webhook import Webhook
from SocketIO_server.stores import make_store


def make_followers(settings: Settings) -> list[Follower]:
    """A follower for each address that the settings name.

    Raises:
        SettingsError: the state folder cannot be made.
    """
    receivers: list[Receiver] = []
    if settings.relay_webhook_url:
        receivers.append(Webhook(settings.relay_webhook_url, settings.relay_webhook_secret))
    if settings.relay_mqtt_url:
        from SocketIO_server.forwarding.mqtt import Mqtt

        receivers.append(Mqtt(settings.relay_mqtt_url))
    if not receivers:
        return []
    state = make_state_folder(settings)
    return [
        Follower(own, lambda: make_store(settings, time.sleep), state / f"{own.name.lower()}.json")
        for own in receivers
    ]
