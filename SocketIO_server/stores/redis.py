"""Captions in a Redis server, for several relays.

"Safe from a crash" means what Redis means by it: with `appendonly yes` and `appendfsync always` an
acknowledged caption is on disk; with less, the relay warns at start. Each change and its entry in
the log are one step, a script, which Redis runs as a whole or not at all.

Two simpler ways would not do. python-socketio's own Redis manager delivers at most once, in an
order of its own. And captions cannot be kept in the stream of the log itself: Redis only marks a
deleted entry, and leaves its bytes in memory and in dumps, where a forgotten photo must not stay.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from SocketIO_server.messages import Message, Thumbnail
from SocketIO_server.stores import protocol
from SocketIO_server.stores.protocol import Beginning, Change, PositionLostError, StoreError, Work

log = logging.getLogger("relay")

PREFIX = "{captioner}:"  # the braces keep all keys on one node of a cluster
CHANGES_KEPT = 10_000  # in the log, about; a relay that has missed more sends its viewers away
CHANGES_AT_ONCE = 50
THUMBNAILS_AT_ONCE = 25
PAGE = 50  # captions that are read at a time
TIMEOUT = 5.0  # seconds to wait for an answer of Redis
AWAY = 1.0  # seconds for which Redis, once it did not answer, is not asked again

_DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}

# What the keys are, in the order in which the scripts get them.
_KEYS = (
    "seq",  # the number of the newest caption
    "ids",  # hash: id -> number, of captions that are or were here
    "captions",  # sorted set by number, of lines: number, id, words, JSON without the thumbnail
    "thumbnails",  # hash: number -> media type, line feed, bytes
    "gone",  # list: ids that are remembered although their caption is not here, the oldest first
    "forgotten",  # sorted set by number: those of them that were forgotten on request
    "working",  # hash: id -> JSON of [owner, payload]
    "log",  # stream: kind, id, and what else the kind needs
    "corrected",  # sorted set by number: captions with a person's words or approval
)

_PRELUDE = rf"""
local SEQ, IDS, CAPTIONS, THUMBNAILS, GONE, FORGOTTEN, WORKING, LOG, CORRECTED = unpack(KEYS)

local function add_to_log(kind, id, data)
  redis.call('XADD', LOG, 'MAXLEN', '~', {CHANGES_KEPT}, '*', 'kind', kind, 'id', id, 'data', data)
end

-- number and id of a caption
local function read(caption)
  return string.match(caption, '^(%d+)\n([^\n]*)')
end

local function remember(id)
  if redis.call('RPUSH', GONE, id) > {protocol.IDS_REMEMBERED} then
    local oldest = redis.call('LPOP', GONE)
    redis.call('HDEL', IDS, oldest)
    redis.call('ZREM', FORGOTTEN, oldest)
  end
end
"""

# ARGV: id or "", words and JSON, thumbnail or "", captions to keep, number to begin after
_APPEND = r"""
local id = ARGV[1]
local known = id ~= '' and redis.call('HGET', IDS, id)
if known then return {tonumber(known), 0} end
local last = math.max(tonumber(redis.call('GET', SEQ) or 0), tonumber(ARGV[5]))
local number = string.format('%d', last + 1)
redis.call('SET', SEQ, number)
redis.call('ZADD', CAPTIONS, number, number .. '\n' .. id .. '\n' .. ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', THUMBNAILS, number, ARGV[3]) end
if id ~= '' then
  redis.call('HSET', IDS, id, number)
  redis.call('HDEL', WORKING, id)
end
add_to_log('prediction', id, number)
local surplus = redis.call('ZCARD', CAPTIONS) - tonumber(ARGV[4])
if surplus > 0 then  -- many when RELAY_KEEP is smaller than it was; the rest with the next caption
  local oldest = redis.call('ZPOPMIN', CAPTIONS, math.min(surplus, 1000))
  for i = 1, #oldest, 2 do
    local old, old_id = read(oldest[i])
    redis.call('HDEL', THUMBNAILS, old)
    redis.call('ZREM', CORRECTED, old)
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
else
  -- another caption has the number if this id was unknown when it was forgotten before
  local caption = redis.call('ZRANGEBYSCORE', CAPTIONS, number, number)[1]
  if caption and select(2, read(caption)) == id then
    redis.call('ZREM', CAPTIONS, caption)
    redis.call('HDEL', THUMBNAILS, number)
    redis.call('ZREM', CORRECTED, number)
    remember(id)
  end
end
redis.call('ZADD', FORGOTTEN, number, id)
redis.call('HDEL', WORKING, id)
add_to_log('forget', id, '')
"""

# ARGV: number, the caption as it was, the caption with a person's words. 0 if it has changed since.
_CORRECT = """
if redis.call('ZREM', CAPTIONS, ARGV[2]) == 0 then return 0 end
redis.call('ZADD', CAPTIONS, ARGV[1], ARGV[3])
redis.call('ZADD', CORRECTED, ARGV[1], ARGV[1])
add_to_log('corrected', select(2, read(ARGV[3])), ARGV[1])
return 1
"""

# ARGV: id, JSON for WORKING, id that makes room or ""
_BEGIN_WORK = """
if redis.call('HEXISTS', IDS, ARGV[1]) == 1 then return end
redis.call('HDEL', WORKING, ARGV[3])
redis.call('HSET', WORKING, ARGV[1], ARGV[2])
add_to_log('captioning', ARGV[1], '')
"""

# ARGV: id, the sentence, "1" to do it only if work on it goes on
_FAIL_WORK = """
if redis.call('HDEL', WORKING, ARGV[1]) == 1 or ARGV[3] == '' then
  add_to_log('captioning_failed', ARGV[1], ARGV[2])
end
"""

# ARGV: position in the log, changes to return at most
_CHANGES = """
if ARGV[1] ~= '0-0' and #redis.call('XRANGE', LOG, ARGV[1], ARGV[1]) == 0 then return false end
local changes = {}
for i, entry in ipairs(redis.call('XRANGE', LOG, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
  local kind, id, data, more = entry[2][2], entry[2][4], entry[2][6], false
  local number = data
  if kind == 'prediction' then
    data = redis.call('ZRANGEBYSCORE', CAPTIONS, number, number)[1] or false
    more = redis.call('HGET', THUMBNAILS, number)
  elseif kind == 'corrected' then
    data = redis.call('ZRANGEBYSCORE', CAPTIONS, number, number)[1] or false
  elseif kind == 'captioning' then
    data = redis.call('HGET', WORKING, id)
  end
  changes[i] = {entry[1], kind, id, number, data, more}
end
return changes
"""


class RedisStore:
    """A `protocol.Store` in a Redis server.

    Args:
        url: of the server, redis://, rediss:// or unix://.
        keep: captions kept; the oldest go first.

    Raises:
        ValueError: the URL is malformed.
    """

    def __init__(self, url: str, keep: int) -> None:
        self.keep = keep
        # No new caption gets this number or a lower one, since viewers have seen them. It matters
        # where Redis has lost its newest captions.
        self._highest_seen = 0
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            # A caption without id would be there twice; its sender decides whether to try again.
            retry=Retry(NoBackoff(), 0),
        )
        self._keys = [PREFIX + key for key in _KEYS]
        self._key = dict(zip(_KEYS, self._keys, strict=True))
        self._scripts = {
            script: self._redis.register_script(_PRELUDE + script)
            for script in (_APPEND, _FORGET, _CORRECT, _BEGIN_WORK, _FAIL_WORK, _CHANGES)
        }
        self._away = (0.0, "")  # until when Redis is not asked again, and why
        self._in_trouble = False
        self._was_checked = threading.Lock()

    def open(self) -> None:
        with self._server() as server:
            server.set(PREFIX + "ready", 1)
            if self._was_checked.acquire(blocking=False):  # once
                self._check_durability(server)

    def close(self) -> None:
        self._redis.close()

    # What publishers change

    def append(self, message: Message) -> tuple[int, bool]:
        picture = message.thumbnail
        seq, is_new = self._run(
            _APPEND,
            message.fields.get("id", ""),
            _text_of(message.fields),
            f"{picture.kind}\n".encode() + picture.data if picture else "",
            self.keep,
            self._highest_seen,
        )
        return seq, bool(is_new)

    def forget(self, identifier: str) -> None:
        self._run(_FORGET, identifier)

    def correct(self, identifier: str, correction: Mapping[str, Any]) -> dict[str, Any] | None:
        while True:
            with self._server() as server:
                number = server.hget(self._key["ids"], identifier)
                found = server.zrangebyscore(self._key["captions"], number or 0, number or 0)
                picture = _thumbnail(server.hget(self._key["thumbnails"], number or 0))
            if not found or found[0].split(b"\n", 2)[1] != identifier.encode():
                return None
            seq, fields = int(number), protocol.fields_of(found[0].split(b"\n", 3)[3])
            fields = {**protocol.corrected(fields, correction), "id": identifier}
            changed = f"{seq}\n{identifier}\n{_text_of(fields)}"
            if self._run(_CORRECT, seq, found[0], changed):
                return Message(fields, picture).payload(seq=seq)

    def begin_work(self, identifier: str, work: Work, instead_of: str = "") -> None:
        self._run(_BEGIN_WORK, identifier, json.dumps([work.owner, work.payload]), instead_of)

    def fail_work(self, identifier: str, error: str, only_if_begun: bool = False) -> None:
        self._run(_FAIL_WORK, identifier, error, "1" if only_if_begun else "")

    # What viewers read

    def after(
        self, seq: int, limit: int, max_bytes: int | None = None, words: Iterable[str] = ()
    ) -> tuple[list[dict[str, Any]], bool]:
        captions: list[dict[str, Any]] = []
        size = 0
        with self._server() as server:
            found = islice(self._search(server, list(words), low=seq + 1), limit + 1)
            while some := list(islice(found, THUMBNAILS_AT_ONCE)):
                numbers = [number for number, _ in some]
                thumbnails = server.hmget(self._key["thumbnails"], numbers)
                for (number, fields), value in zip(some, thumbnails, strict=True):
                    if len(captions) == limit or (max_bytes is not None and size > max_bytes):
                        return captions, True
                    picture = _thumbnail(value)
                    captions.append(protocol.payload_of(number, fields, picture))
                    size += len(fields) + len(picture.data if picture else b"")
        return captions, False

    def before_last(self, count: int, words: Iterable[str] = (), before: int = 2**62) -> int:
        with self._server() as server:
            if not words:
                page = server.zrevrangebyscore(self._key["captions"], before - 1, 0, count, 1)
                return _number(page[0]) if page else 0
            found = self._search(server, list(words), high=before - 1, newest_first=True)
            return next(islice(found, count, None), (0, b""))[0]

    def forgotten(self, seq: int) -> list[str]:
        with self._server() as server:
            ids = server.zrevrangebyscore(
                self._key["forgotten"], seq, 0, 0, protocol.FORGOTTEN_LISTED
            )
            return [identifier.decode() for identifier in ids]

    def corrections(self, seq: int) -> list[dict[str, Any]]:
        with self._server() as server:
            numbers = server.zrevrangebyscore(
                self._key["corrected"], seq, 0, 0, protocol.CORRECTIONS_LISTED
            )
            together = server.pipeline(transaction=False)
            for number in numbers:
                together.zrangebyscore(self._key["captions"], number, number)
            return [_correction(found[0]) for found in together.execute() if found]

    def has_seen(self, identifier: str) -> bool:
        with self._server() as server:
            return bool(server.hexists(self._key["ids"], identifier))

    def last_seq(self) -> int:
        with self._server() as server:
            return int(server.get(self._key["seq"]) or 0)

    def oldest_seq(self) -> int:
        with self._server() as server:
            oldest = server.zrange(self._key["captions"], 0, 0, withscores=True)
            return int(oldest[0][1]) if oldest else self.last_seq() + 1

    def count(self) -> int:
        with self._server() as server:
            return server.zcard(self._key["captions"])

    # What the relay follows

    def beginning(self) -> Beginning:
        with self._server() as server:
            together = server.pipeline(transaction=True)
            together.xrevrange(self._key["log"], count=1)
            together.get(self._key["seq"])
            together.hgetall(self._key["working"])
            entries, seq, working = together.execute()
        self._highest_seen = max(self._highest_seen, int(seq or 0))
        return Beginning(
            entries[0][0].decode() if entries else "0-0",
            int(seq or 0),
            {i.decode(): Work(*json.loads(value)) for i, value in working.items()},
        )

    def changes(self, position: str) -> list[Change]:
        rows = self._run(_CHANGES, position, CHANGES_AT_ONCE)
        if rows is None:
            raise PositionLostError("Redis has lost its latest changes, or has had too many since.")
        changes = [_change(*row) for row in rows]
        self._highest_seen = max(self._highest_seen, *(change.seq for change in changes), 0)
        return changes

    def wait(self, position: str, seconds: float) -> None:  # for less than TIMEOUT
        with self._server() as server:
            server.xread({self._key["log"]: position}, count=1, block=int(seconds * 1000))

    def heartbeat(self, relay: str, seconds: int, others: set[str]) -> set[str]:
        with self._server() as server:
            server.set(f"{PREFIX}relay:{relay}", 1, ex=seconds)
            gone = {other for other in others if not server.exists(f"{PREFIX}relay:{other}")}
        if self._in_trouble:  # it ends when Redis can write
            log.info("Redis can be used again.")
            self._in_trouble = False
        return gone

    # Inside

    @contextlib.contextmanager
    def _server(self) -> Iterator[Any]:  # redis-py's types leave out that answers are bytes
        """The client, unless Redis was away just now; turns its errors into sentences."""
        until, sentence = self._away
        if time.monotonic() < until:
            raise StoreError(sentence)
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
            if not self._in_trouble:  # once
                log.error("%s", sentence)
                self._in_trouble = True
            raise StoreError(sentence) from error

    def _run(self, script: str, *arguments: Any) -> Any:
        with self._server():
            return self._scripts[script](keys=self._keys, args=arguments)

    def _search(
        self,
        server: Any,
        words: list[str],
        low: int = 0,
        high: int = 2**62,
        newest_first: bool = False,
    ) -> Iterator[tuple[int, bytes]]:
        """Number, from `low` to `high`, and JSON of each caption that holds `words`, in order."""
        while True:
            if newest_first:
                page = server.zrevrangebyscore(self._key["captions"], high, low, 0, PAGE)
            else:
                page = server.zrangebyscore(self._key["captions"], low, high, 0, PAGE)
            for member in page:
                number, _, text, fields = member.split(b"\n", 3)
                if all(f" {word}".encode() in text for word in words):
                    yield int(number), fields
            if len(page) < PAGE:
                return
            last = _number(page[-1])
            low, high = (low, last - 1) if newest_first else (last + 1, high)

    def _check_durability(self, server: Any) -> None:
        """Warn if Redis may lose what it has acknowledged."""
        try:
            found: Any = server.config_get(*_DURABLE)
        except redis.ResponseError:  # we may not ask
            return
        wrong = [f"{name} {value}" for name, value in _DURABLE.items() if found.get(name) != value]
        if wrong:
            log.warning(
                "Redis may lose captions that it has acknowledged, when it or its machine fails or "
                "its memory is full. To be safe from that, set in redis.conf: %s",
                ", ".join(wrong),
            )


def _text_of(fields: Mapping[str, Any]) -> str:
    """What the line of a caption holds behind its number and id."""
    return protocol.words_column(fields) + "\n" + json.dumps(fields, ensure_ascii=False)


def _correction(caption: bytes) -> dict[str, Any]:
    _, identifier, _, fields = caption.split(b"\n", 3)
    return protocol.correction_of({**protocol.fields_of(fields), "id": identifier.decode()})


def _number(caption: bytes) -> int:
    """The number of a caption, which begins its line."""
    return int(caption.split(b"\n", 1)[0])


def _thumbnail(value: bytes | None) -> Thumbnail | None:
    """A thumbnail as it is kept, which begins with its media type."""
    kind, _, data = (value or b"").partition(b"\n")
    return Thumbnail(data, kind.decode()) if kind else None


def _change(
    position: bytes, kind: bytes, identifier: bytes, number: bytes, data: Any, thumbnail: Any
) -> Change:
    """An entry of the log from what `_CHANGES` returns for it."""
    place, event, id_ = position.decode(), kind.decode(), identifier.decode()
    if event == "prediction":
        payload = None
        if data is not None:
            fields = data.split(b"\n", 3)[3]
            payload = protocol.payload_of(int(number), fields, _thumbnail(thumbnail))
        return Change(place, event, id_, payload, seq=int(number))
    if event == "corrected":
        return Change(place, event, id_, _correction(data) if data else None)
    if event == "captioning":
        owner, payload = json.loads(data) if data else ("", None)
        return Change(place, event, id_, payload, owner=owner)
    more = {"error": data.decode()} if event == "captioning_failed" else {}
    return Change(place, event, id_, {"id": id_, **more})
