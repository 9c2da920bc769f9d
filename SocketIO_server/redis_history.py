"""The history in a Redis server, which several relays share, and the log of all that changes.

It has the methods of `history.History` and keeps the same promises, with two differences. "On disk"
means what Redis means by it: with `appendonly yes` and `appendfsync always` an acknowledged caption
is on disk, with less the relay warns when it starts. And what a relay tells its viewers it does not
decide itself: every change is also an entry in a log, in one step with the change, and each relay
follows that log (see `shared.SharedRelay`). python-socketio's own queue of broadcasts would not do:
it delivers at most once, and in an order of its own.

A step is a script, which Redis runs as a whole or not at all. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from SocketIO_server.history import (
    FORGOTTEN_TOLD,
    IDS_REMEMBERED,
    HistoryError,
    search_words,
)
from SocketIO_server.messages import Message, Thumbnail

log = logging.getLogger("relay")

PREFIX = "{captioner}:"  # the braces keep all keys on one node of a cluster
CHANGES_KEPT = 10_000  # in the log, about; a relay that has missed more sends its viewers away
CHANGES_AT_ONCE = 50
FETCHED_AT_ONCE = 25  # captions with their thumbnails
PAGE = 1_000  # numbers of captions
TIMEOUT = 5.0  # seconds to wait for an answer of Redis
AWAY = 1.0  # seconds for which Redis, once it did not answer, is not asked again

# What the keys are, in the order in which the scripts get them.
_KEYS = (
    "seq",  # the number of the newest caption
    "ids",  # hash: id -> number, of captions that are or were here
    "order",  # sorted set: "NUMBER ID" by number, of the captions that are here
    "fields",  # hash: number -> JSON of the message without its thumbnail
    "words",  # hash: number -> " two dogs run"
    "thumbnails",  # hash: number -> media type, line feed, bytes
    "gone",  # list: ids that are remembered although their caption is not here, the oldest first
    "forgotten",  # sorted set: those of them that were forgotten on request, by number
    "working",  # hash: id -> JSON of [who works on it, what viewers are told]
    "log",  # stream: event, id, and what else the event needs
)

_PRELUDE = f"""
local SEQ, IDS, ORDER, FIELDS, WORDS, THUMBNAILS, GONE, FORGOTTEN, WORKING, LOG = unpack(KEYS)

local function tell(event, id, data)
  redis.call('XADD', LOG, 'MAXLEN', '~', {CHANGES_KEPT}, '*',
    'event', event, 'id', id, 'data', data)
end

local function remember(id)
  if redis.call('RPUSH', GONE, id) > {IDS_REMEMBERED} then
    local oldest = redis.call('LPOP', GONE)
    redis.call('HDEL', IDS, oldest)
    redis.call('ZREM', FORGOTTEN, oldest)
  end
end

local function remove(number)
  redis.call('HDEL', FIELDS, number)
  redis.call('HDEL', WORDS, number)
  redis.call('HDEL', THUMBNAILS, number)
end
"""

# ARGV: id or "", fields, words, thumbnail or "", captions to keep, number to begin after
_ADD = """
local id = ARGV[1]
local known = id ~= '' and redis.call('HGET', IDS, id)
if known then return {tonumber(known), 0} end
local last = math.max(tonumber(redis.call('GET', SEQ) or 0), tonumber(ARGV[6]))
local number = string.format('%d', last + 1)
redis.call('SET', SEQ, number)
redis.call('HSET', FIELDS, number, ARGV[2])
redis.call('HSET', WORDS, number, ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', THUMBNAILS, number, ARGV[4]) end
redis.call('ZADD', ORDER, number, number .. ' ' .. id)
if id ~= '' then
  redis.call('HSET', IDS, id, number)
  redis.call('HDEL', WORKING, id)
end
tell('prediction', id, number)
local surplus = redis.call('ZCARD', ORDER) - tonumber(ARGV[5])
if surplus > 0 then  -- many when RELAY_KEEP is smaller than it was; the rest with the next caption
  for _, member in ipairs(redis.call('ZRANGE', ORDER, 0, math.min(surplus, 1000) - 1)) do
    local old, old_id = string.match(member, '^(%d+) (.*)$')
    redis.call('ZREM', ORDER, member)
    remove(old)
    if old_id ~= '' then remember(old_id) end
  end
end
return {tonumber(number), 1}
"""

# ARGV: id
_FORGET = """
local id = ARGV[1]
local known = redis.call('HGET', IDS, id)
local number = known or redis.call('GET', SEQ) or '0'
if not known then
  redis.call('HSET', IDS, id, number)
  remember(id)
elseif redis.call('ZREM', ORDER, number .. ' ' .. id) == 1 then
  remove(number)
  remember(id)
end
redis.call('ZADD', FORGOTTEN, number, id)
redis.call('HDEL', WORKING, id)
tell('forget', id, '')
"""

# ARGV: id, JSON for WORKING, id that makes room or ""
_BEGIN_WORK = """
if redis.call('HEXISTS', IDS, ARGV[1]) == 1 then return end
redis.call('HDEL', WORKING, ARGV[3])
redis.call('HSET', WORKING, ARGV[1], ARGV[2])
tell('captioning', ARGV[1], '')
"""

# ARGV: id, the sentence, "1" to tell it only if work on it goes on
_FAIL_WORK = """
if redis.call('HDEL', WORKING, ARGV[1]) == 1 or ARGV[3] == '' then
  tell('captioning_failed', ARGV[1], ARGV[2])
end
"""

# ARGV: position in the log, changes to return at most
_CHANGES = """
if ARGV[1] ~= '0-0' and #redis.call('XRANGE', LOG, ARGV[1], ARGV[1]) == 0 then return false end
local changes = {}
for i, entry in ipairs(redis.call('XRANGE', LOG, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
  local event, id, data, more = entry[2][2], entry[2][4], entry[2][6], false
  local number = data
  if event == 'prediction' then
    data = redis.call('HGET', FIELDS, number)
    more = redis.call('HGET', THUMBNAILS, number)
  elseif event == 'captioning' then
    data = redis.call('HGET', WORKING, id)
  end
  changes[i] = {entry[1], event, id, number, data, more}
end
return changes
"""


class LostTrackError(HistoryError):
    """What follows a position in the log cannot be told: it is too long ago, or lost by Redis."""


@dataclass(frozen=True)
class Change:
    """An entry of the log.

    Attributes:
        position: in the log.
        event: what viewers are told: prediction, forget, captioning or captioning_failed.
        id: of the caption; "" where the publisher gave none.
        seq: of a prediction; 0 otherwise.
        payload: for the event; None where it is obsolete already, since an entry that follows says
            what became of it, or since the caption has made room for newer ones.
        owner: who works on it, for captioning.
    """

    position: str
    event: str
    id: str
    seq: int
    payload: dict[str, Any] | None
    owner: str = ""


@dataclass(frozen=True)
class Beginning:
    """How things stand at one moment.

    Attributes:
        position: in the log.
        seq: of the newest caption.
        working: id -> (who works on it, what viewers are told).
    """

    position: str
    seq: int
    working: dict[str, tuple[str, dict[str, Any]]]


class RedisHistory:
    """Captions in a Redis server.

    Args:
        url: of the server, redis://, rediss:// or unix://.
        keep: captions kept; the oldest go first.

    Attributes:
        told: no new caption gets this number or a lower one, since viewers know them. It matters
            where Redis has lost its newest captions.

    Raises:
        ValueError: the URL is malformed.
    """

    def __init__(self, url: str, keep: int) -> None:
        self.keep = keep
        self.told = 0
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            # A caption without id would be there twice: whoever sends it decides on that.
            retry=Retry(NoBackoff(), 0),
        )
        self._keys = [PREFIX + key for key in _KEYS]
        self._key = dict(zip(_KEYS, self._keys, strict=True))
        self._scripts = {
            script: self._redis.register_script(_PRELUDE + script)
            for script in (_ADD, _FORGET, _BEGIN_WORK, _FAIL_WORK, _CHANGES)
        }
        self._away = (0.0, "")  # until when Redis is not asked again, and why
        self._was_checked = threading.Lock()

    # As in History: each of these raises HistoryError.

    def open(self) -> None:
        """Make sure that Redis answers and can write."""
        with self._server() as server:
            server.set(PREFIX + "ready", 1)
            if self._was_checked.acquire(blocking=False):  # once
                self._check_durability(server)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._redis.close()

    def add(self, message: Message) -> tuple[int, bool]:
        """Keep a caption: its number, and whether it is new (else its `id` was there before)."""
        picture = message.thumbnail
        seq, is_new = self._run(
            _ADD,
            message.fields.get("id", ""),
            json.dumps(message.fields, ensure_ascii=False),
            "".join(f" {word}" for word in search_words(message.fields["caption"])),
            f"{picture.kind}\n".encode() + picture.data if picture else "",
            self.keep,
            self.told,
        )
        return seq, bool(is_new)

    def forget(self, identifier: str) -> None:
        """Remove a caption for good, and never take it again; an unknown `id` is remembered too."""
        self._run(_FORGET, identifier)

    def knows(self, identifier: str) -> bool:
        """Whether a caption of this `id` is or was here, or was forgotten before it came."""
        with self._server() as server:
            return bool(server.hexists(self._key["ids"], identifier))

    def last_seq(self) -> int:
        """The number of the newest caption that there ever was; 0 for none."""
        with self._server() as server:
            return int(server.get(self._key["seq"]) or 0)

    def count(self) -> int:
        """Captions that are here now."""
        with self._server() as server:
            return server.zcard(self._key["order"])

    def after(
        self, seq: int, limit: int, max_bytes: int | None = None, words: Iterable[str] = ()
    ) -> tuple[list[dict[str, Any]], bool]:
        """Captions after number `seq`, oldest first, as viewers get them; and if there are more.

        Args:
            limit: captions at most.
            max_bytes: stop after the caption that takes the sum of their sizes beyond this.
            words: each of them, in lower case, has to begin a word of the caption.
        """
        captions: list[dict[str, Any]] = []
        size = 0
        with self._server() as server:
            found = self._numbers(server, seq + 1, 2**62, list(words), limit + 1)
            numbers = list(islice(found, limit + 1))
            for begin in range(0, min(limit, len(numbers)), FETCHED_AT_ONCE):
                some = numbers[begin : min(limit, begin + FETCHED_AT_ONCE)]
                rows = zip(
                    some,
                    server.hmget(self._key["fields"], some),
                    server.hmget(self._key["thumbnails"], some),
                    strict=True,
                )
                for number, fields, thumbnail in rows:
                    if max_bytes is not None and size > max_bytes:
                        return captions, True
                    if fields is not None:  # else it was removed just now
                        captions.append(_payload(number, fields, thumbnail))
                        size += len(fields) + len(thumbnail or b"")
        return captions, len(numbers) > limit

    def before_last(self, count: int, words: Iterable[str] = (), before: int = 2**62) -> int:
        """The number after which the newest `count` captions (that hold `words`) come.

        Args:
            before: leave out those from this number on.
        """
        with self._server() as server:
            found = self._numbers(server, 0, before - 1, list(words), count + 1, newest_first=True)
            return next(islice(found, count, None), 0)

    def forgotten(self, seq: int) -> list[str]:
        """Ids of captions up to number `seq` that were forgotten on request, the newest of them."""
        with self._server() as server:
            ids = server.zrevrangebyscore(self._key["forgotten"], seq, 0, 0, FORGOTTEN_TOLD)
            return [identifier.decode() for identifier in ids]

    # Beyond History: work in progress, the log, and which relays are there. They raise it too.

    def begin_work(
        self, identifier: str, owner: str, told: dict[str, Any], instead_of: str = ""
    ) -> None:
        """Work on a photo has begun, unless its caption is or was here.

        Args:
            owner: who works on it.
            told: what viewers are told.
            instead_of: id of a photo that is to be dropped for it.
        """
        self._run(_BEGIN_WORK, identifier, json.dumps([owner, told]), instead_of)

    def fail_work(self, identifier: str, error: str, only_if_begun: bool = False) -> None:
        """Work on a photo has come to nothing."""
        self._run(_FAIL_WORK, identifier, error, "1" if only_if_begun else "")

    def beginning(self) -> Beginning:
        """How things stand now."""
        with self._server() as server:
            together = server.pipeline(transaction=True)
            together.xrevrange(self._key["log"], count=1)
            together.get(self._key["seq"])
            together.hgetall(self._key["working"])
            entries, seq, working = together.execute()
        return Beginning(
            entries[0][0].decode() if entries else "0-0",
            int(seq or 0),
            {i.decode(): tuple(json.loads(value)) for i, value in working.items()},
        )

    def changes(self, position: str) -> list[Change]:
        """The next changes after a position in the log, at most CHANGES_AT_ONCE.

        Raises:
            LostTrackError: this cannot be told any more.
        """
        rows = self._run(_CHANGES, position, CHANGES_AT_ONCE)
        if rows is None:
            raise LostTrackError("Redis has lost some of the latest captions, or has more of them.")
        return [_change(*row) for row in rows]

    def wait(self, position: str, seconds: float) -> None:
        """Until there is a change after a position in the log, or `seconds` (under TIMEOUT)."""
        with self._server() as server:
            server.xread({self._key["log"]: position}, count=1, block=int(seconds * 1000))

    def beat(self, relay: str, seconds: int) -> None:
        """This relay is there, for the next `seconds`."""
        with self._server() as server:
            server.set(f"{PREFIX}relay:{relay}", 1, ex=seconds)

    def is_there(self, relay: str) -> bool:
        """Whether a relay has said so."""
        with self._server() as server:
            return bool(server.exists(f"{PREFIX}relay:{relay}"))

    # Inside

    @contextlib.contextmanager
    def _server(self) -> Iterator[Any]:  # redis-py's types do not know that answers are bytes
        """The client, unless Redis was away just now; turns what it raises into sentences."""
        until, sentence = self._away
        if time.monotonic() < until:
            raise HistoryError(sentence)
        try:
            yield self._redis
        except redis.RedisError as error:
            sentence = (
                f"The history in Redis cannot be used now ({error}); see that the server of "
                "RELAY_MESSAGE_QUEUE runs and can write."
            )
            if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
                # all who need it would wait for the same answer
                self._away = (time.monotonic() + AWAY, sentence)
            raise HistoryError(sentence) from error

    def _run(self, script: str, *arguments: Any) -> Any:
        with self._server():
            return self._scripts[script](keys=self._keys, args=arguments)

    def _numbers(
        self,
        server: Any,
        low: int,
        high: int,
        words: list[str],
        wanted: int,
        newest_first: bool = False,
    ) -> Iterator[int]:
        """The numbers from `low` to `high` of captions that hold `words`, in order.

        Args:
            wanted: about so many will be taken.
        """
        size = PAGE if words else wanted
        while True:
            if newest_first:
                page = server.zrevrangebyscore(self._key["order"], high, low, 0, size)
            else:
                page = server.zrangebyscore(self._key["order"], low, high, 0, size)
            numbers = [int(member.split(b" ")[0]) for member in page]
            if words and numbers:
                texts = server.hmget(self._key["words"], numbers)
                for number, text in zip(numbers, texts, strict=True):
                    if text and all(f" {word}" in text.decode() for word in words):
                        yield number
            else:
                yield from numbers
            if len(numbers) < size:
                return
            low, high = (low, numbers[-1] - 1) if newest_first else (numbers[-1] + 1, high)

    def _check_durability(self, server: Any) -> None:
        """Warn if Redis may lose what it has acknowledged."""
        try:
            found: Any = server.config_get("appendonly", "appendfsync", "maxmemory-policy")
        except redis.ResponseError:  # whoever runs it does not let us ask
            return
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        wrong = [f"{name} {value}" for name, value in wanted.items() if found.get(name) != value]
        if wrong:
            log.warning(
                "Redis may lose captions that it has acknowledged, when it or its machine fails or "
                "its memory is full. To be safe from that, set in redis.conf: %s",
                ", ".join(wrong),
            )


def _payload(number: int, fields: bytes, thumbnail: bytes | None) -> dict[str, Any]:
    """A caption as viewers get it."""
    kind, _, data = (thumbnail or b"").partition(b"\n")
    try:
        message = Message(json.loads(fields), Thumbnail(data, kind.decode()) if kind else None)
    except ValueError:  # it keeps its place, so that counting and paging go on
        message = Message({"caption": "(This caption is damaged in Redis.)"})
    return message.payload(seq=number)


def _change(
    position: bytes, event: bytes, identifier: bytes, number: bytes, data: Any, thumbnail: Any
) -> Change:
    """An entry of the log from what `_CHANGES` returns for it."""
    name, id_ = event.decode(), identifier.decode()
    seq, payload, owner = 0, None, ""
    if name == "prediction":
        seq = int(number)
        payload = None if data is None else _payload(seq, data, thumbnail)
    elif name == "captioning":
        if data is not None:
            owner, payload = json.loads(data)
    elif name == "captioning_failed":
        payload = {"id": id_, "error": data.decode()}
    else:
        payload = {"id": id_}
    return Change(position.decode(), name, id_, seq, payload, owner)
