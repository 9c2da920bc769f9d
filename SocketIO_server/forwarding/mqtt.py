"""RELAY_MQTT_URL: each caption is published to an MQTT broker, with Home Assistant's discovery.

Below the prefix (by default "captioner"): `caption`, the caption's JSON without its picture;
`state`, its text; `image`, its picture as JPEG; `status`, online or offline. Home Assistant shows
a sensor and an image by itself.

Source: https://www.home-assistant.io/integrations/mqtt/
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from SocketIO_server.forwarding.follower import DeliveryError

TIMEOUT = 10.0  # seconds
STATE_LENGTH = 255  # characters of a state in Home Assistant


class Mqtt:
    """A receiver of captions over MQTT."""

    name = "MQTT"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._prefix = parts.path.strip("/") or "captioner"
        self.address = hashlib.sha256(url.encode()).hexdigest()
        secure = parts.scheme == "mqtts"
        self._host, self._port = parts.hostname or "", parts.port or (8883 if secure else 1883)
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2)
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if secure:
            client.tls_set_context(ssl.create_default_context())
        client.will_set(f"{self._prefix}/status", "offline", qos=1, retain=True)
        client.on_connect = self._announce
        self._running = False

    def send(self, caption: dict[str, Any]) -> None:
        if not self._running:
            try:
                self._client.connect(self._host, self._port, keepalive=30)
            except (OSError, ValueError) as error:
                raise DeliveryError(f"The broker cannot be reached ({error}).") from None
            self._client.loop_start()
            self._running = True
        about = {key: value for key, value in caption.items() if key != "thumbnail"}
        picture = caption.get("thumbnail", "").partition(";base64,")[2]
        if picture:
            self._publish("image", base64.b64decode(picture))
        self._publish("caption", json.dumps(about))
        self._publish("state", caption["caption"][:STATE_LENGTH])

    def close(self) -> None:
        if self._running:
            self._publish("status", "offline")
            self._client.disconnect()
            self._client.loop_stop()
            self._running = False

    def _publish(self, topic: str, payload: str | bytes) -> None:
        message = self._client.publish(f"{self._prefix}/{topic}", payload, qos=1, retain=True)
        try:
            message.wait_for_publish(TIMEOUT)
            delivered = message.is_published()
        except (ValueError, RuntimeError) as error:
            raise DeliveryError(f"The broker did not take a message ({error}).") from None
        if not delivered:
            raise DeliveryError("The broker did not confirm a message.")

    def _announce(self, client: paho.Client, *_: Any) -> None:
        """After each connection: online, and what Home Assistant finds."""
        unique = f"captioner_{self.address[:8]}"
        device = {"identifiers": [unique], "name": "Image captioner"}
        common = {
            "availability_topic": f"{self._prefix}/status",
            "device": device,
            "json_attributes_topic": f"{self._prefix}/caption",
        }
        entities = {
            "sensor": {"name": "Caption", "state_topic": f"{self._prefix}/state",
                       "icon": "mdi:image-text"},
            "image": {"name": "Photo", "image_topic": f"{self._prefix}/image",
                      "content_type": "image/jpeg"},
        }  # fmt: skip
        for kind, own in entities.items():
            config = {**common, **own, "unique_id": f"{unique}_{kind}"}
            topic = f"homeassistant/{kind}/{unique}/config"
            client.publish(topic, json.dumps(config), qos=1, retain=True)
        client.publish(f"{self._prefix}/status", "online", qos=1, retain=True)
