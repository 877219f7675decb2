"""The registry in Redis: each verb of the interface in terms of keys and scripts.

Each change of a record is one script on one key; what merely helps to find records (`pubsub:peers`,
`pubsub:topics`, the sets of copies) lies under other keys, maybe on another node of a cluster, and is written
before or after it. An index that dies in between leaves at worst a name without a record, which is passed
over, or a name missing from a list until the peer beats or announces again.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, Literal

import msgspec
from redis.asyncio import RedisCluster

from pubsub.config import DEFAULT_NAMESPACE
from pubsub.errors import ClosedError, RegistryUnavailableError, SettingsError, reason_of
from pubsub.registry import scripts
from pubsub.registry.commands import PIPELINE_COMMANDS, Command, Commands
from pubsub.registry.connections import REPLY_SECONDS, RedisClient, make_client
from pubsub.registry.events import watch_events
from pubsub.registry.interface import (
    CasResult,
    Event,
    Generation,
    Heartbeat,
    HeartbeatOutcome,
    PeerRecord,
    PeerState,
    RegisterResult,
    Registry,
    SubscriberRecord,
    TopicRecord,
)
from pubsub.registry.keys import Keys
from pubsub.registry.records import (
    decode_peer,
    decode_subscriber,
    decode_topic,
    encode_load,
    encode_peer,
    encode_topic,
    pairs,
)
from pubsub.registry.urls import parse_redis_url

SCHEMA = 1
"""Layout of the keys; grows when an older index could no longer read them."""

_PAGE_NAMES = 1000
_REMEMBERED_MS = 30 * 24 * 3600 * 1000
"""How long deleted topics, and peers that never said goodbye, are remembered."""


class RedisRegistry(Registry):
    """A registry in a Redis that runs elsewhere.

    Args:
        url: see `pubsub.registry.urls`.
        namespace: how all keys begin.
        reply_seconds: how long a call waits for Redis before it raises.

    Raises:
        SettingsError: the URL or the namespace is malformed.
    """

    def __init__(
        self, url: str, *, namespace: str = DEFAULT_NAMESPACE, reply_seconds: float = REPLY_SECONDS
    ) -> None:
        self._redis_address = parse_redis_url(url)
        self._keys = Keys(namespace)
        self._reply_seconds = reply_seconds
        self._closing = AsyncExitStack()
        self._client: RedisClient | None = None
        self._commands: Commands | None = None
        self._seen_at = 0
        """When the registry was last looked at, as it said itself; it must not forget."""

    @property
    def where(self) -> str:
        """Where this registry is, without a password."""
        return str(self._redis_address)

    async def open(self) -> None:
        try:
            self._use(make_client(self._redis_address, self._closing, self._reply_seconds))
        except (ValueError, OSError) as error:  # such as a certificate file that is not there
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise SettingsError(f"the registry URL {self.where} cannot be used: {reason}") from error

    def _use(self, client: RedisClient, pipeline_commands: int = PIPELINE_COMMANDS) -> None:
        self._client = client
        self._commands = Commands(client, self.where, self._reply_seconds, pipeline_commands)

    async def close(self) -> None:
        self._client = self._commands = None
        await self._closing.aclose()

    async def _run(self, *commands: Command) -> list[Any]:
        if self._commands is None:
            raise ClosedError("the registry is not open")
        return await self._commands.run(commands)

    def _event(self, kind: Literal["topic", "peer"], name: str, **marks: bool) -> str:
        told = {mark: True for mark, holds in marks.items() if holds}
        return msgspec.json.encode({"kind": kind, "name": name, **told}).decode()

    async def generation(self, now: int) -> Generation:
        keys = self._keys
        (reply,) = await self._run(
            scripts.BEGIN_GENERATION.call(
                keys.registry, uuid.uuid4().hex, now, SCHEMA, self._seen_at, now, await self._process()
            )
        )
        identity, created_at, schema, seen_at = reply
        try:
            found = Generation(id=identity, created_at=int(created_at), schema=int(schema))
            self._seen_at = int(seen_at)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{keys.registry} in {self.where} is damaged: delete that key") from error
        if found.schema > SCHEMA:
            raise SettingsError(f"the registry in {self.where} belongs to a newer version of pubsub")
        return found

    async def _process(self) -> str:
        """What tells one process of Redis from another; empty where it does not say, or is several."""
        if isinstance(self._client, RedisCluster):
            return ""
        try:
            (told,) = await self._run(("INFO", "server"))
        except RegistryUnavailableError:
            return ""  # not allowed, or unknown; or the server is away, which whoever asks next finds out
        return str(told.get("run_id", ""))

    # Peers

    async def register_peer(self, record: PeerRecord, ttl_seconds: float, now: int) -> RegisterResult:
        keys, ttl_ms = self._keys, _milliseconds(ttl_seconds)
        script = scripts.REGISTER_PEER.call(
            keys.peer(record.name),
            record.incarnation,
            ttl_ms,
            keys.events,
            self._event("peer", record.name),
            *encode_peer(record),
        )
        (reply,) = await self._run(script)
        if reply[0] != "registered":
            return RegisterResult(outcome=reply[0], holder=decode_peer(record.name, pairs(reply[1])))
        _, forgotten = await self._run(
            ("ZADD", keys.peers, now // 1000 + ttl_ms, record.name),
            ("ZRANGEBYSCORE", keys.peers, "-inf", now // 1000 - _REMEMBERED_MS, "LIMIT", 0, _PAGE_NAMES),
        )
        if forgotten:
            await self._run(
                ("ZREM", keys.peers, *forgotten), *(("DEL", keys.peer_topics(n)) for n in forgotten)
            )
        return RegisterResult(outcome="registered")

    async def heartbeat(
        self, beats: Sequence[Heartbeat], ttl_seconds: float, now: int
    ) -> list[HeartbeatOutcome]:
        keys, ttl_ms = self._keys, _milliseconds(ttl_seconds)
        outcomes: list[HeartbeatOutcome] = await self._run(
            *(
                scripts.HEARTBEAT.call(
                    keys.peer(beat.name),
                    beat.incarnation,
                    ttl_ms,
                    "heartbeat_at",
                    now,
                    *encode_load(beat.load),
                )
                for beat in beats
            )
        )
        deadlines: list[str | int] = []
        for beat, outcome in zip(beats, outcomes, strict=True):
            if outcome == "ok":
                deadlines += (now // 1000 + ttl_ms, beat.name)
        if deadlines:
            await self._run(("ZADD", keys.peers, *deadlines))
        return outcomes

    async def remove_peer(self, name: str, incarnation: str) -> bool:
        keys = self._keys
        script = scripts.REMOVE_PEER.call(
            keys.peer(name), incarnation, keys.events, self._event("peer", name)
        )
        (removed,) = await self._run(script)
        if removed:
            await self._run(("ZREM", keys.peers, name))
        return bool(removed)

    async def deadlines(self, names: Collection[str] | None = None) -> dict[str, int]:
        return {name: _in_us(deadline) for name, deadline in (await self._deadlines(names)).items()}

    async def _deadlines(self, names: Collection[str] | None) -> dict[str, str]:
        if names is None:
            (flat,) = await self._run(("ZRANGE", self._keys.peers, 0, -1, "WITHSCORES"))
            return pairs(flat)
        scores = await self._run(*(("ZSCORE", self._keys.peers, name) for name in names)) if names else ()
        return {name: score for name, score in zip(names, scores, strict=True) if score is not None}

    async def set_draining(self, name: str, draining: bool) -> bool:
        keys = self._keys
        script = scripts.SET_DRAINING.call(
            keys.peer(name),
            "yes" if draining else "no",
            keys.events,
            self._event("peer", name, draining=True),
        )
        (found,) = await self._run(script)
        return bool(found)

    async def peers(self, now: int, names: Collection[str] | None = None) -> list[PeerState]:
        return await self._peer_states(await self._deadlines(names), now)

    async def peer(self, name: str, now: int) -> PeerState | None:
        found = await self.peers(now, (name,))
        return found[0] if found else None

    async def _peer_states(self, deadlines: Mapping[str, str], now: int) -> list[PeerState]:
        keys, names = self._keys, sorted(deadlines)
        replies = await self._run(
            *(("HGETALL", keys.peer(name)) for name in names),
            *(("SCARD", keys.peer_topics(name)) for name in names),
        )
        states = []
        for name, fields, topics in zip(names, replies[: len(names)], replies[len(names) :], strict=True):
            record, deadline_at = decode_peer(name, fields), _in_us(deadlines[name])
            alive = record is not None and deadline_at > now
            states.append(
                PeerState(name=name, alive=alive, deadline_at=deadline_at, topics=topics, record=record)
            )
        return states

    # Topics

    async def compare_and_set_topic(
        self, name: str, expected: TopicRecord | None, record: TopicRecord | None
    ) -> CasResult:
        keys = self._keys
        if record is None:
            return await self._delete_topic(name, expected)
        # Listed before it exists: a name without a record is passed over, a record without is never found.
        *_, reply = await self._run(
            ("ZADD", keys.topics, 0, name),
            *self._list_replicated([record]),
            self._compare_and_set(name, expected, record),
        )
        result = self._cas_result(name, expected, record, reply)
        if result.applied:
            await self._note_holders([(expected, record)])
        return result

    async def compare_and_set_topics(
        self, changes: Sequence[tuple[TopicRecord, TopicRecord]]
    ) -> list[CasResult]:
        listing = self._list_replicated([record for _, record in changes])
        replies = await self._run(
            *listing, *(self._compare_and_set(record.name, expected, record) for expected, record in changes)
        )
        replies = replies[len(listing) :]
        results = [
            self._cas_result(record.name, expected, record, reply)
            for (expected, record), reply in zip(changes, replies, strict=True)
        ]
        await self._note_holders([c for c, result in zip(changes, results, strict=True) if result.applied])
        return results

    def _list_replicated(self, records: Iterable[TopicRecord]) -> list[Command]:
        """To be run before they are written: one that is not listed would not be looked after."""
        pages = _pages(record.name for record in records if record.replicated)
        return [("ZADD", self._keys.replicated, *(item for n in page for item in (0, n))) for page in pages]

    async def _note_holders(self, changes: Sequence[tuple[TopicRecord | None, TopicRecord]]) -> None:
        """Keep the lists of what peers hold in line with records that were changed."""
        added: dict[str, list[str]] = {}
        removed: dict[str, list[str]] = {}
        for expected, record in changes:
            before = expected.holders if expected else set()
            for peer in record.holders - before:
                added.setdefault(peer, []).append(record.name)
            for peer in before - record.holders:
                removed.setdefault(peer, []).append(record.name)
        alone = [record.name for _, record in changes if not record.replicated]
        with suppress(RegistryUnavailableError):  # the changes are made; announcements of the peers add this
            await self._run(
                *((("ZREM", self._keys.replicated, *alone),) if any(e for e, _ in changes) and alone else ()),
                *(("SADD", self._keys.peer_topics(peer), *names) for peer, names in added.items()),
                *(("SREM", self._keys.peer_topics(peer), *names) for peer, names in removed.items()),
            )

    async def _delete_topic(self, name: str, expected: TopicRecord | None) -> CasResult:
        keys = self._keys
        (reply,) = await self._run(self._compare_and_set(name, expected, None))
        result = self._cas_result(name, expected, None, reply)
        if result.applied:
            holders = expected.holders if expected else set()
            with suppress(RegistryUnavailableError):  # a name without a record is passed over
                await self._run(
                    ("ZREM", keys.topics, name),
                    ("ZREM", keys.replicated, name),
                    *(("SREM", keys.peer_topics(peer), name) for peer in holders),
                )
                # It may have been created anew between the deletion and the ZREM: then it must be listed.
                (exists,) = await self._run(("EXISTS", keys.topic(name)))
                if exists:
                    await self._run(("ZADD", keys.topics, 0, name), ("ZADD", keys.replicated, 0, name))
        return result

    async def restore_topics(self, records: Sequence[TopicRecord]) -> list[CasResult]:
        keys = self._keys
        for page in _pages(record.name for record in records):
            await self._run(("ZADD", keys.topics, *(item for n in page for item in (0, n))))
        await self._run(*self._list_replicated(records))
        replies = await self._run(*(self._compare_and_set(record.name, None, record) for record in records))
        return [
            self._cas_result(record.name, None, record, reply)
            for record, reply in zip(records, replies, strict=True)
        ]

    def _compare_and_set(
        self, name: str, expected: TopicRecord | None, record: TopicRecord | None
    ) -> Command:
        keys = self._keys
        return scripts.COMPARE_AND_SET_TOPIC.call(
            keys.topic(name),
            *((expected.id, expected.epoch, expected.version) if expected else ("", "", "")),
            keys.events,
            self._event("topic", name, replicated=record is not None and record.replicated),
            *(encode_topic(record, _next_version(expected, record)) if record else ()),
        )

    def _cas_result(
        self,
        name: str,
        expected: TopicRecord | None,
        record: TopicRecord | None,
        reply: tuple[int, list[str]],
    ) -> CasResult:
        """Read the script's reply.

        If the connection broke, the script may have been run twice and find its own work: that is success.
        """
        applied, flat = reply
        wanted = (
            decode_topic(name, pairs(encode_topic(record, _next_version(expected, record))))
            if record
            else None
        )
        current = decode_topic(name, pairs(flat))
        return CasResult(applied=bool(applied) or current == wanted, current=current)

    async def lookup(self, names: Sequence[str]) -> list[TopicRecord | None]:
        hashes = await self._run(*(("HGETALL", self._keys.topic(name)) for name in names))
        return [decode_topic(name, fields) for name, fields in zip(names, hashes, strict=True)]

    async def topics(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[TopicRecord]:
        found: list[TopicRecord] = []
        stop = f"({prefix}\x7f" if prefix else "+"  # beyond every character that a name may have
        start = f"({after}" if after >= prefix and after else f"[{prefix}"
        while limit is None or len(found) < limit:
            (names,) = await self._run(
                ("ZRANGEBYLEX", self._keys.topics, start, stop, "LIMIT", 0, _PAGE_NAMES)
            )
            found += [record for record in await self.lookup(names) if record is not None]
            if len(names) < _PAGE_NAMES:
                break
            start = f"({names[-1]}"
        return found[:limit]

    async def replicated_topics(self) -> set[str]:
        (names,) = await self._run(("ZRANGE", self._keys.replicated, 0, -1))
        return set(names)

    async def count_topics(self) -> int:
        (count,) = await self._run(("ZCARD", self._keys.topics))
        return int(count)

    async def announce_copies(self, peer: str, held: Iterable[str], known: Collection[str]) -> None:
        key, holds, knew = self._keys.peer_topics(peer), set(held), set(known)
        await self._run(
            *(("SADD", key, *names) for names in _pages(holds - knew)),
            *(("SREM", key, *names) for names in _pages(knew - holds)),
        )

    async def topics_of(self, peer: str) -> set[str]:
        (names,) = await self._run(("SMEMBERS", self._keys.peer_topics(peer)))
        return set(names)

    # Tombstones

    async def bury(self, topic_id: int, now: int) -> None:
        deleted, now_ms = self._keys.deleted, now // 1000
        await self._run(
            ("ZADD", deleted, now_ms, topic_id),
            ("ZREMRANGEBYSCORE", deleted, "-inf", now_ms - _REMEMBERED_MS),
        )

    async def buried(self, topic_ids: Sequence[int]) -> set[int]:
        scores = await self._run(*(("ZSCORE", self._keys.deleted, topic_id) for topic_id in topic_ids))
        return {topic_id for topic_id, score in zip(topic_ids, scores, strict=True) if score is not None}

    # Subscribers

    async def report_subscribers(
        self, peer: str, reports: Mapping[str, Mapping[str, int]], ttl_seconds: float, now: int
    ) -> None:
        until = now + round(ttl_seconds * 1_000_000)
        await self._run(
            *(
                scripts.REPORT_SUBSCRIBERS.call(
                    self._keys.subscribers(topic),
                    peer,
                    _milliseconds(ttl_seconds),
                    now,
                    *(
                        text
                        for subscription, since in entries.items()
                        for text in (
                            subscription,
                            msgspec.json.encode(
                                SubscriberRecord(peer=peer, since=since, until=until)
                            ).decode(),
                        )
                    ),
                )
                for topic, entries in reports.items()
            )
        )

    async def subscribers(self, topic: str, now: int) -> dict[str, SubscriberRecord]:
        (fields,) = await self._run(("HGETALL", self._keys.subscribers(topic)))
        entries = {subscription: decode_subscriber(text) for subscription, text in fields.items()}
        return {name: entry for name, entry in entries.items() if entry is not None and entry.until > now}

    # Events

    async def watch(self) -> AsyncGenerator[list[Event], None]:
        if self._client is None:
            raise ClosedError("the registry is not open")
        async with aclosing(watch_events(self._client, self._keys.events)) as batches:
            async for events in batches:
                yield events


def _pages(names: Iterable[str]) -> list[list[str]]:
    """So many at a time as one command takes."""
    listed = list(names)
    return [listed[first : first + _PAGE_NAMES] for first in range(0, len(listed), _PAGE_NAMES)]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _next_version(expected: TopicRecord | None, record: TopicRecord) -> int:
    return max(expected.version, record.version) + 1 if expected else max(record.version, 1)


def _in_us(score: str) -> int:
    """A deadline as the sorted set has it, in milliseconds."""
    return int(float(score) * 1000)
