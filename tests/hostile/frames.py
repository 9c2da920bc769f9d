"""Hostile WebSocket, Engine.IO and Socket.IO messages for the relay.

Engine.IO 4 and Socket.IO 5: "0" open, "1" close, "2" ping, "3" pong, "5" upgrade, "6" nothing, "40"
connect, "41" disconnect, "42" event, "43" acknowledgement, "44" refused, "45n-" event with n binary
attachments, "46n-" acknowledgement with such.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.hostile import Case
from tests.hostile.web import ANY_BUT_FAILURE, HEAD, HTML

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Frames(NamedTuple):
    """WebSocket frames to send one after the other, on a connection of their own.

    Attributes:
        kind: what is wrong with them, in a word or two.
        name: which of their kind it is.
        data: the bytes on the wire, after the handshakes of WebSocket and Socket.IO.
    """

    kind: str
    name: str
    data: bytes


def frame(opcode: int, payload: bytes, *, final: bool = True, reserved: int = 0) -> bytes:
    """A frame as a client sends it (RFC 6455, section 5.2), with a mask that changes nothing."""
    first = opcode | (0x80 if final else 0) | reserved << 4
    if len(payload) < 126:
        head = struct.pack("!BB", first, 0x80 | len(payload))
    elif len(payload) < 2**16:
        head = struct.pack("!BBH", first, 0x80 | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(payload))
    return head + bytes(4) + payload


def frames() -> Iterator[Frames]:
    """What is wrong below Socket.IO's own meaning: frames, packets, JSON."""
    for name, texts in _TEXTS.items():
        payloads = [texts] if isinstance(texts, str) else texts
        yield Frames("packet", name, b"".join(frame(TEXT, text.encode()) for text in payloads))
    for name, data in _WIRE.items():
        yield Frames("wire", name, data)
    event = json.dumps(["prediction", {"caption": "hostile", "id": "x", "words": []}]).encode()
    for seed in range(40):
        chance = random.Random(seed)
        text = bytearray(event)
        for _ in range(chance.randint(1, 5)):
            text[chance.randrange(len(text))] = chance.randrange(32, 127)
        yield Frames("flipped", f"an event, seed {seed}", frame(TEXT, b"42" + bytes(text)))
    for seed in range(10):
        noise = random.Random(seed).randbytes(2_000)
        yield Frames("flipped", f"noise as text, seed {seed}", frame(TEXT, noise))
        yield Frames("flipped", f"noise as bytes, seed {seed}", frame(BINARY, noise))
        yield Frames("flipped", f"noise on the wire, seed {seed}", noise)


def refused_events() -> Iterator[tuple[str, list[Any]]]:
    """Events of a publisher that have to be answered `{"ok": false, "error": sentence}`."""
    for field, values in _BAD_VALUES.items():
        for value in values:
            message = {"caption": "hostile", field: value}
            yield f"predict with {field} = {str(value)[:40]!r}", ["predict", message]
    for event in ("captioning", "captioning_failed", "forget"):
        for payload in (*_NO_OBJECTS, *({"id": value} for value in (None, *_BAD_VALUES["id"]))):
            yield f"{event} of {str(payload)[:40]}", [event, payload]
    long = {"id": "x", "error": "x" * 501}
    yield "captioning_failed with a long error", ["captioning_failed", long]
    for payload in _NO_OBJECTS:
        yield f"predict of {payload!r}", ["predict", payload]
    yield "predict of nothing", ["predict"]
    for event in ("prediction", "history", "message", "ping", "predict ", "Predict", "__init__"):
        yield f"an event that is called {event!r}", [event, {"caption": "hostile"}]


def polling() -> Iterator[Case]:
    """Long polling and handshakes: whole HTTP requests, with SID for that of a session."""

    def request(name: str, method: str, path: str, *headers: str, body: bytes = b"") -> Case:
        lines = "".join(f"{header}\r\n" for header in headers)
        if method == "POST":
            lines += f"Content-Length: {len(body)}\r\n"
        start = f"{method} {path} {HEAD}"
        if "Connection: Upgrade" in lines:
            start = start.replace("Connection: close\r\n", "")
        head = f"{start}{lines}\r\n"
        return Case("polling", name, head.encode("latin-1") + body, ANY_BUT_FAILURE)

    for query in _HANDSHAKES:
        yield request(f"a handshake: {query[:50]}", "GET", f"/socket.io/?{query}")
    for name, body in _POSTS.items():
        yield request(f"a post of {name}", "POST", f"{POLLING}&sid=SID", body=body)
    yield request("a post to nobody", "POST", f"{POLLING}&sid=nobody", body=b"2")
    yield request("a post without session", "POST", POLLING, body=b"2")
    yield request("a put", "PUT", f"{POLLING}&sid=SID")
    yield request("a delete", "DELETE", f"{POLLING}&sid=SID")
    for name, headers in _UPGRADES.items():
        yield request(f"half an upgrade with {name}", "GET", WEBSOCKET, *headers)
        for path in (WEBSOCKET, f"{WEBSOCKET}&sid=nobody", f"{POLLING}&sid=SID", POLLING, "/"):
            what = f"an upgrade of {path[:60]} with {name}"
            yield request(what, "GET", path, "Connection: Upgrade", *headers)
    for query in _SEARCHES:
        yield request(f"a search: {query[:30]}", "GET", f"/api/captions?{query}")


POLLING = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"
_PUBLISH = '["predict",{"caption":"hostile"}]'
_PLACEHOLDER = '{"_placeholder":true,"num":0}'


def _event(fields: str) -> str:
    return '42["predict",{"caption":"hostile",' + fields + "}]"


def _attached(placeholder: str) -> str:
    return '451-["predict",{"caption":"hostile","thumbnail":' + placeholder + "}]"


_TEXTS: dict[str, str | list[str]] = {
    "empty": "",
    "a letter": "x",
    "an unknown type": "9",
    "a second open": '0{"sid":"x"}',
    "a ping with text": "2probe",
    "pongs": ["3"] * 50,
    "an upgrade": "5",
    "nothings": ["6"] * 50,
    "no Socket.IO type": "4",
    "an unknown Socket.IO type": "49",
    "a Socket.IO type of several digits": "4444444",
    "a second connect": '40{"token":"x"}',
    "connects without end": ["40"] * 50,
    "a connect that is no JSON": "40{",
    "a connect with a list": "40[]",
    "a connect to another namespace": "40/admin,{}",
    "a connect to a thousand namespaces": [f"40/{i},{{}}" for i in range(1_000)],
    "a namespace of 100,000 characters": "40/" + "x" * 100_000 + ",{}",
    "a namespace of HTML": f"40/{HTML},{{}}",
    "an event in another namespace": "42/admin," + _PUBLISH,
    "a disconnect of another namespace": "41/admin,",
    "a disconnect and more": ["41", "42" + _PUBLISH],
    "an event of nothing": "42",
    "an event of an empty list": "42[]",
    "an event of an object": "42{}",
    "an event of a number": "425",
    "an event of null": "42null",
    "an event whose name is a number": "42[5]",
    "an event whose name is null": "42[null]",
    "an event whose name is an object": '42[{"a":1}]',
    "an event whose name is a list": '42[["predict"],{"caption":"hostile"}]',
    "an event whose name is empty": '42["",{}]',
    "an event whose name has 100,000 characters": '42["' + "x" * 100_000 + '"]',
    "an event that is called connect": '42["connect",{"token":"x"}]',
    "an event that is called disconnect": '42["disconnect"]',
    "an event that is called *": '42["*",{}]',
    "an event that is called __class__": '42["__class__",{}]',
    "a reserved event": '42["connect_error",{}]',
    "JSON that ends early": '42["predict"',
    "JSON with more after it": '42["predict",{}]]]]',
    "JSON in quotes": '42"[\\"predict\\"]"',
    "JSON with comments": '42["predict",/* */{}]',
    "JSON with a trailing comma": '42["predict",{},]',
    "JSON in single quotes": "42['predict',{}]",
    "JSON with a line feed in a text": '42["predict",{"caption":"a\nb"}]',
    "JSON with a NUL": '42["predict",{"caption":"a\0b"}]',
    "JSON with a byte order mark": "42\ufeff" + _PUBLISH,
    "JSON 100 deep": _event('"x":' + "[" * 100 + "]" * 100),
    "JSON 10,000 deep": _event('"x":' + "[" * 10_000 + "]" * 10_000),
    "JSON 100,000 deep": _event('"x":' + "[" * 100_000 + "]" * 100_000),
    "lists that do not end": "42" + "[" * 900_000,
    "objects that do not end": "42" + '{"a":' * 150_000,
    "a connect 100,000 deep": "40" + "[" * 100_000,
    "an acknowledgement 100,000 deep": "431" + "[" * 100_000,
    "1e400": _event('"elapsed_ms":1e400'),
    "-1e400": _event('"elapsed_ms":-1e400'),
    "NaN": _event('"elapsed_ms":NaN'),
    "Infinity": _event('"elapsed_ms":Infinity'),
    "a number of 5,000 digits": _event('"elapsed_ms":' + "9" * 5_000),
    "a number of 900,000 digits": _event('"elapsed_ms":' + "9" * 900_000),
    "an exponent of 900,000 digits": _event('"elapsed_ms":1e' + "9" * 900_000),
    "half a pair": '42["predict",{"caption":"\\ud800"}]',
    "half a pair in a key": '42["predict",{"\\udfff":1,"caption":"\\udfff"}]',
    "half a pair in a name": '42["\\ud800",{}]',
    "half a pair in a token": '40{"token":"\\ud800"}',
    "a key many times": '42["predict",{' + ",".join(['"caption":1'] * 20_000) + "}]",
    "60,000 keys": "42" + json.dumps(["predict", {str(i): i for i in range(60_000)}]),
    "an acknowledgement nobody asked for": "43999[]",
    "an acknowledgement without number": "43[]",
    "an acknowledgement of text": '43"x"',
    "a refusal": '44{"message":"x"}',
    "an acknowledgement's number of 500 digits": "42" + "9" * 500 + '["predict"]',
    "an acknowledgement's number of 900,000 digits": "42" + "9" * 900_000 + '["predict"]',
    "a negative number of an acknowledgement": '42-1["predict",{}]',
    "a digit that is none": '42\u0663["predict",{}]',
    "10^12 attachments": '45999999999999-["predict",' + _PLACEHOLDER + "]",
    "-1 attachments": '45-1-["predict",{}]',
    "attachments of no number": '45x-["predict",{}]',
    "an attachment that does not come": _attached(_PLACEHOLDER),
    "attachment 7": _attached('{"_placeholder":true,"num":7}'),
    "attachment -1": _attached('{"_placeholder":true,"num":-1}'),
    "attachment x": _attached('{"_placeholder":true,"num":"x"}'),
    "attachment of no number": _attached('{"_placeholder":true}'),
    "a placeholder without attachments": '42["predict",{"caption":' + _PLACEHOLDER + "}]",
    "a text instead of an attachment": [_attached(_PLACEHOLDER), "2", '42["x"]'],
    "an acknowledgement with attachments": "462-1[" + _PLACEHOLDER + "]",
    "base64 bytes": "b" + "QUFB" * 1_000,
    "base64 that is none": "b!!!",
    "packets in one": "2\x1e2\x1e42[]",
    "999,000 characters": "x" * 999_000,
    "1,100,000 characters": "x" * 1_100_000,
    "an event of 999,000 characters": _event('"x":"' + "x" * 999_000 + '"'),
    "a thousand unknown events": ['42["x"]'] * 1_000,
    "a thousand bad events": ['42["predict",{}]'] * 1_000,
    "a close": "1",
    "a close and more": ["1", "42" + _PUBLISH],
}

_WIRE: dict[str, bytes] = {
    "no mask": b"\x81\x02hi",
    "a reserved bit": frame(TEXT, b"2", reserved=1),
    "all reserved bits": frame(TEXT, b"2", reserved=7),
    "compressed without leave": frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\0", reserved=4),
    "an unknown frame": frame(3, b"2"),
    "another unknown frame": frame(15, b""),
    "a continuation of nothing": frame(CONTINUATION, b"42[]"),
    "a frame within a message": frame(TEXT, b"4", final=False) + frame(TEXT, b"2[]"),
    "a message without end": frame(TEXT, b"4", final=False)
    + frame(CONTINUATION, b"x" * 9_000, final=False) * 150,
    "100,000 empty continuations": frame(TEXT, b"4", final=False)
    + frame(CONTINUATION, b"", final=False) * 100_000,
    "a length of 2^63": b"\x81\xff" + struct.pack("!Q", 2**63) + bytes(4),
    "a length of 2^40": b"\x81\xff" + struct.pack("!Q", 2**40) + bytes(4) + b"x" * 10_000,
    "a length of 2 in eight bytes": b"\x81\xff" + struct.pack("!Q", 2) + bytes(4) + b"42",
    "half a head": b"\x81",
    "less than it says": b"\x81\xfe\x10\0" + bytes(4) + b"42[",
    "a ping in pieces": frame(PING, b"x", final=False),
    "a ping of 1,000 bytes": frame(PING, b"x" * 1_000),
    "10,000 pings": frame(PING, b"x" * 100) * 10_000,
    "a pong nobody asked for": frame(PONG, b"x"),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "a close for a reason that is none": frame(CLOSE, struct.pack("!H", 999) + b"\xff"),
    "frames after a close": frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"42" + _PUBLISH.encode()),
    "a text that is no UTF-8": frame(TEXT, b'42["\xff\xfe"]'),
    "a text cut within a character": frame(TEXT, b'42["\xe2\x82', final=False)
    + frame(CONTINUATION, b'\xac"]'),
    "bytes of nothing": frame(BINARY, b""),
    "bytes nobody announced": frame(BINARY, bytes(10_000)) * 50,
    "two attachments for one": frame(TEXT, _attached(_PLACEHOLDER).encode())
    + frame(BINARY, b"x") * 2,
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "nothing at all": b"",
}

_DEEP: Any = json.loads("[" * 90 + "]" * 90)
_CERTAIN = {"word": "a", "probability": 1}
_BAD_VALUES: dict[str, list[Any]] = {
    "caption": [None, 5, True, [], {}, ["a"], _DEEP, "", " \n", "x" * 1_001, "\ud800"],
    "id": [5, "", "x" * 101, HTML, "a b", "../x", "\0", "\u0661", [], {"$ne": 1}],
    "image_path": [5, "x" * 1_001, [], "\udfff"],
    "confidence": [-0.1, 1.01, True, "0.5", float("nan"), []],
    "confident": [1, "true", [], {}],
    "photo": [0, "false", [], {}],
    "elapsed_ms": [-1, True, float("nan"), float("inf"), 10**90, "5", [5]],
    "created_at": [
        "yesterday", 0, "2026-02-30T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z\n",
        "\u0662026-01-01T00:00:00Z", [], {},
    ],
    "model": [5, "x" * 201, []],
    "words": [
        {}, "x", 5, ["a"], [{}], [{"word": "a"}], [{"word": 5, "probability": 1}],
        [{"word": "a", "probability": "1"}], [{"word": "a", "probability": 1.01}],
        [{"word": "a", "probability": float("nan")}], [_CERTAIN] * 201, [_DEEP],
    ],
    "candidates": [
        {}, [1], [{"caption": "a"}], [{"caption": "", "probability": 1}],
        [{"caption": "a", "probability": -0.1}], [{"caption": "a", "probability": 1}] * 21,
    ],
    "thumbnail": [
        5, [], {}, "x", "javascript:alert(1)", "https://evil.example/x.jpg", "file:///etc/passwd",
        "data:text/html;base64,PHNjcmlwdD4=", "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/jpeg;base64,PHN2Zz4=", "data:image/jpeg;base64,\u00fc",
        "data:image/jpeg;base64,/9j/" + "A" * 300_000, "data:image/jpeg,\xff\xd8\xff",
        "DATA:image/jpeg;base64,/9j/", 'data:image/png;base64,"onerror="alert(1)',
    ],
}  # fmt: skip

_NO_OBJECTS: list[Any] = [None, 5, "hostile", [], ["hostile"], {}, True]

_HANDSHAKES = (
    "", "EIO=3&transport=polling", "EIO=5&transport=polling", "EIO=x", "EIO=4", "EIO=4&transport=",
    "EIO=4&transport=carrier-pigeon", "EIO=4&transport=websocket", "transport[]=polling&EIO[]=4",
    "EIO=4&EIO=3&transport=polling&transport=websocket", f"{POLLING[12:]}&sid=nobody",
    f"{POLLING[12:]}&sid=" + "x" * 8_000, f"{POLLING[12:]}&sid=%00", f"{POLLING[12:]}&sid=../..",
    f"{POLLING[12:]}&j=0", f"{POLLING[12:]}&j=x", f"{POLLING[12:]}&j=%3Cb%3E",
    f"{POLLING[12:]}&b64=1",
)  # fmt: skip

_POSTS = {
    "nothing": b"",
    "no UTF-8": b"\xff\xfe",
    "a NUL": b"4\0",
    "an unknown packet": b"9",
    "pings": b"\x1e".join([b"2"] * 15),
    "1,000 packets": b"\x1e".join([b"2"] * 1_000),
    "100,000 empty packets": b"\x1e" * 100_000,
    "a connect that is none": b"40[[[",
    "an event before the connect": b"42" + _PUBLISH.encode(),
    "an event 100,000 deep": b"42" + b"[" * 100_000,
    "attachments that do not come": b'459-["predict"]',
    "base64 that is none": b"b!!!",
    "999,000 characters": b"x" * 999_000,
    "two megabytes": b"x" * 2_000_000,
    "a form": b"d=42%5B%5D",
    "Engine.IO 3": b"5:42[],1:2",
    "a close": b"1",
    "an upgrade": b"5",
}

_UPGRADE = ("Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
_13 = "Sec-WebSocket-Version: 13"
_UPGRADES = {
    "no key": (_UPGRADE[0], _13),
    "no version": _UPGRADE,
    "version 99": (*_UPGRADE, "Sec-WebSocket-Version: 99"),
    "version x": (*_UPGRADE, "Sec-WebSocket-Version: x"),
    "a key that is none": (_UPGRADE[0], _13, "Sec-WebSocket-Key: <b>"),
    "keys of 2010": (_UPGRADE[0], "Sec-WebSocket-Key1: 1 2", "Sec-WebSocket-Key2: 3 4"),
    "another protocol": (*_UPGRADE, _13, "Sec-WebSocket-Protocol: mqtt"),
    "another site": (*_UPGRADE, _13, "Origin: https://evil.example"),
    "an origin of null": (*_UPGRADE, _13, "Origin: null"),
}

_SEARCHES = (
    "after=-1", "after=x", "after=9999999999999999", "after[]=1", "after=1;drop%20table",
    "limit=0", "limit=-5", "limit=1e3", "limit=%D9%A3", "before=%00", "q=" + "x" * 500, "q=%ff",
    'q="', "q=*", "q=a%20OR%20b", "q=NEAR(a%20b)", "q=" + "(" * 200, "q=%00",
)  # fmt: skip
