"""Value types that users see, and the rules for names, addresses and positions.

All are immutable. Instants are integer microseconds UTC in fields that end in `_us` and on disk and wire;
`published_at` and the like are aware datetimes. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Self, overload

import msgspec

from pubsub.errors import InvalidNameError, InvalidRequestError, SettingsError

NAME_MAX_LENGTH = 200
"""Longest topic name, in characters."""

DEAD_PART = "dead"
"""The messages that groups of topic T gave up are in topic T.dead; users create no topics whose last part it is."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
"""What a message without headers has; one object for all, so it cannot be changed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PART = r"[A-Za-z0-9_-]+"
_TOPIC = re.compile(rf"{_PART}(\.{_PART})*")
_PATTERN = re.compile(rf"((({_PART}|\*)\.)*({_PART}|\*|>))")
_NAME = re.compile(_PART)
_NAME_MAX_LENGTH = 64


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message of a topic. `headers` is empty, never None; `payload` is None for a removed key."""

    topic: str
    offset: int
    published_us: int
    """When the owner stored it, microseconds UTC."""
    key: str | None
    headers: Mapping[str, str]
    payload: bytes | None

    @property
    def published_at(self) -> datetime:
        """When the owner stored it."""
        return datetime_from_us(self.published_us)

    @property
    def text(self) -> str:
        """The payload as text.

        Raises:
            InvalidRequestError: it is not UTF-8, or there is none.
        """
        try:
            return self._some_payload().decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                f"the payload of {self.topic} at offset {self.offset} is not UTF-8 text: {error}"
            ) from error

    def json(self) -> Any:
        """The payload, read as JSON.

        Raises:
            InvalidRequestError: it is not JSON, or there is none.
        """
        try:
            return msgspec.json.decode(self._some_payload())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequestError(
                f"the payload of {self.topic} at offset {self.offset} is not JSON: {error}"
            ) from error

    def _some_payload(self) -> bytes:
        if self.payload is None:
            raise InvalidRequestError(
                f"the message of {self.topic} at offset {self.offset} has no payload: it removes its key"
            )
        return self.payload


class NewMessage(msgspec.Struct, frozen=True):
    """A message to be published with a key, headers or an id of its own (an item for `publish_many`)."""

    payload: bytes | str | None
    """None removes the key."""
    key: str | None = None
    headers: Mapping[str, str] | None = None
    message_id: str | None = None
    """Stored once within the topic's window (2 minutes unless its policy says otherwise), however often published."""


class TopicInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a topic."""

    topic: str
    id: int
    owner: str
    address: str | None = None
    """Where its owner serves it; None while the owner is away."""
    epoch: int
    online: bool
    replicas: list[str] = []
    in_sync: list[str] = []
    next_offset: int | None = None
    """Offset of the next message; None while the owner is away."""
    first_offset: int | None = None
    created_at: str | None = None
    """ISO 8601."""
    policy: dict[str, Any] = {}
    read_only: str | None = None
    """Why publishes are refused at the moment, or None."""
    scheduled: int | None = None
    """Messages that are held for later; None while the owner is away."""
    messages: int | None = None
    """How many are stored: fewer than the offsets span, after compaction. None while the owner is away."""
    bytes: int | None = None
    """What their payloads, keys and headers take; None while the owner is away."""
    leaving: list[str] = []
    """Replicas that go, once enough others are in sync."""
    problem: str | None = None
    """Why it is offline, or has fewer copies than it shall have; None where all is well."""


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a peer."""

    peer: str
    address: str | None = None
    alive: bool
    topics: int = 0
    """How many topics it holds a copy of."""
    reachable: bool = True
    """Whether the index could dial its address when it registered."""
    version: str | None = None
    incarnation: str | None = None
    started_at: str | None = None
    heartbeat_at: str | None = None
    load: dict[str, float] = {}
    zone: str | None = None
    """What fails together with it: copies of a topic are spread over zones."""
    draining: bool = False
    """Whether everything is being moved off it."""


class GroupInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How a group is doing. lag = ready + in_flight + delayed: what it has not acknowledged."""

    topic: str
    group: str
    ready: int
    in_flight: int
    delayed: int
    dead: int
    """Messages that were given up and lie in the dead letter topic."""
    lag: int
    members: list[dict[str, Any]]
    """Each with its name, where it connects from, and how much it has in flight."""
    options: dict[str, Any]


class CursorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a durable subscription has got to."""

    topic: str
    subscription: str
    position: int
    """Offset of the next message."""
    lag: int | None = None
    """Messages from there to the end; None where the topic's owner is elsewhere."""
    kept_at: str = ""
    """The peer in whose file the cursor is."""
    connected: bool | None = None
    """Whether somebody reads by it now; None where that is not known."""
    updated_at: str | None = None


class ScheduledMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is held until it is due."""

    topic: str
    schedule_id: int
    deliver_at: str
    key: str | None = None
    headers: dict[str, str] = {}
    payload: bytes | None = None


class OrphanedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was cut off a copy, because the log of the topic's owner has something else there, or nothing."""

    topic: str
    peer: str
    """Whose copy it was cut off."""
    number: int
    """Of this orphan, at that peer."""
    offset: int
    """Where it stood in that copy."""
    epoch: int
    """In which it was appended there."""
    published_at: str
    cut_at: str
    owner: str
    """Whose log has not got it ..."""
    owner_epoch: int
    """... and in which epoch that was."""
    key: str | None = None
    headers: dict[str, str] = {}
    payload: bytes | None = None


class CopyRange(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets `start` up to, not including, `stop` of one copy of a topic, beside the others'."""

    topic: str
    peer: str
    role: str | None = None
    start: int = 0
    stop: int = 0
    messages: int | None = None
    digest: str | None = None
    """CRC-32 of all that is in it, in hexadecimal digits; None: it was not read, or is damaged."""
    equal: bool | None = None
    """Whether it is what most copies have; None: nobody can tell (docs/replication.md)."""
    problem: str = ""
    """What is wrong with the copy, or why it was not looked at."""

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against it."""
        return self.equal is not False and not self.problem


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change that a watcher is told of.

    `kind` is "topic" (created, moved, deleted: then `topic` says what holds now, None when deleted), "peer",
    or "resync": changes may have been missed, look at everything again.
    """

    kind: str
    name: str = ""
    topic: TopicInfo | None = None


class Offset(int):
    """The offset of a message of a replicated topic, and the peers that had it on disk when it was acknowledged."""

    in_sync: Sequence[str]

    def __new__(cls, offset: int, in_sync: Sequence[str]) -> Self:
        self = super().__new__(cls, offset)
        self.in_sync = in_sync
        return self


class Offsets(Sequence[int]):
    """The offsets of published messages, in the order in which they were given: a compact sequence of int.

    Holds one entry for each run of consecutive offsets, so that millions cost little memory.
    """

    __slots__ = ("_length", "_runs", "in_sync")

    def __init__(self, runs: Sequence[range] = (), in_sync: Sequence[str] | None = None) -> None:
        self._runs: list[range] = []
        self._length = 0
        self.in_sync = in_sync
        """Of a replicated topic: the peers that had all of them on disk when they were acknowledged."""
        for run in runs:
            self._add(run)

    def _add(self, run: range) -> None:
        if self._runs and self._runs[-1].stop == run.start:
            self._runs[-1] = range(self._runs[-1].start, run.stop)
        elif run:
            self._runs.append(run)
        self._length += len(run)

    def _had_by(self, in_sync: Sequence[str] | None) -> None:
        """Some of them are on these peers."""
        if self.in_sync is None or in_sync is None:
            self.in_sync = in_sync
        elif in_sync != self.in_sync:
            self.in_sync = [peer for peer in self.in_sync if peer in in_sync]

    @property
    def runs(self) -> tuple[range, ...]:
        """The runs of consecutive offsets."""
        return tuple(self._runs)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        for run in self._runs:
            yield from run

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return list(self)[index]
        position = index + self._length if index < 0 else index
        if position < 0:
            raise IndexError(index)
        for run in self._runs:
            if position < len(run):
                return run[position]
            position -= len(run)
        raise IndexError(index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Offsets):
            return self._runs == other._runs
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{run.start}..{run.stop - 1}" for run in self._runs[:5])
        return f"Offsets({self._length}: {shown}{', …' if len(self._runs) > 5 else ''})"


def datetime_from_us(microseconds: int) -> datetime:
    """Turn microseconds UTC into an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=microseconds)


def us_from_datetime(instant: datetime) -> int:
    """Turn an aware datetime into microseconds UTC, exactly.

    Raises:
        InvalidRequestError: it has no time zone.
    """
    if instant.tzinfo is None:
        raise InvalidRequestError(
            f"the time {instant.isoformat()} has no zone; give one, such as {instant.isoformat()}+00:00"
        )
    return (instant - _EPOCH) // timedelta(microseconds=1)


def iso_from_us(microseconds: int) -> str:
    """Write microseconds UTC as ISO 8601 with six decimals and a Z."""
    return datetime_from_us(microseconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def is_text(value: object) -> bool:
    """Whether what should be a text by its type is one: names come from users' code."""
    return isinstance(value, str)


def check_topic_name(name: str) -> str:
    """Return `name` if it is a legal topic name.

    Raises:
        InvalidNameError: it is not; the message states the rule.
    """
    if not is_text(name) or not _TOPIC.fullmatch(name):
        raise InvalidNameError(
            f"{name!r} is not a topic name: use parts of letters, digits, _ and - joined by single dots"
        )
    if len(name) > NAME_MAX_LENGTH:
        raise InvalidNameError(
            f"topic name {name[:20]}… is {len(name)} characters long; at most {NAME_MAX_LENGTH} are allowed"
        )
    return name


def check_new_topic_name(name: str) -> str:
    """Return `name` if users may create a topic of this name.

    Raises:
        InvalidNameError: it is no topic name, or reserved; the message states the rule.
    """
    check_topic_name(name)
    if name.rpartition(".")[2] == DEAD_PART:
        raise InvalidNameError(
            f"the topic name {name} is reserved: topics whose last part is {DEAD_PART} hold what groups gave up"
        )
    return name


def check_peer_name(name: str) -> str:
    """Return `name` if it is a legal peer name.

    Raises:
        InvalidNameError: it is not; the message states the rule.
    """
    return _check_part(name, "peer")


def check_zone(zone: str) -> str:
    """Return `zone` if it is a legal name of a zone, or empty: none is named.

    Raises:
        InvalidNameError: it is not; the message states the rule.
    """
    return _check_part(zone, "zone") if zone != "" else zone


def check_group_name(name: str) -> str:
    """Return `name` if it is a legal name of a group.

    Raises:
        InvalidNameError: it is not; the message states the rule.
    """
    return _check_part(name, "group")


def check_durable_name(name: str) -> str:
    """Return `name` if it is a legal name for `subscribe(durable=...)`.

    Raises:
        InvalidNameError: it is not; the message states the rule.
    """
    return _check_part(name, "subscription")


def check_subscription_name(name: str) -> str:
    """Return `name` if a durable subscription can be listed under it: NAME, or NAME@PEER of a peer's own.

    Raises:
        InvalidNameError: it is not; the message states the rule.
    """
    own, separator, peer = name.partition("@") if is_text(name) else (name, "", "")
    check_durable_name(own)
    if separator:
        check_peer_name(peer)
    return name


def _check_part(name: str, of: str) -> str:
    if not is_text(name) or not _NAME.fullmatch(name) or len(name) > _NAME_MAX_LENGTH:
        shown = f"{name[:20]!r}…" if is_text(name) and len(name) > _NAME_MAX_LENGTH else repr(name)
        raise InvalidNameError(
            f"{shown} is not a {of} name: use letters, digits, _ and -, at most {_NAME_MAX_LENGTH} of them"
        )
    return name


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it is a legal topic pattern: `*` for one part, a trailing `>` for the rest.

    Raises:
        InvalidNameError: it is not; the message states the rule.
    """
    if not is_text(pattern) or not _PATTERN.fullmatch(pattern) or len(pattern) > NAME_MAX_LENGTH:
        raise InvalidNameError(
            f"{pattern!r} is not a topic pattern: join names by dots, with * for one part and > at the end for the rest"
        )
    return pattern


def is_pattern(name: str) -> bool:
    """Whether a text that names a topic, or a pattern of topics, is a pattern."""
    return is_text(name) and ("*" in name or ">" in name)


def matches(pattern: str, name: str) -> bool:
    """Whether the topic `name` is one that `pattern` means."""
    wanted, parts = pattern.split("."), name.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True))


def fixed_prefix(pattern: str) -> str:
    """The longest text with which every name that `pattern` means begins."""
    return re.split(r"[*>]", pattern, maxsplit=1)[0]


class Address(msgspec.Struct, frozen=True, order=True):
    """Where a server listens. Written `host:port`; an IPv6 host stands in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `host:port` or `[ipv6]:port`.

    Raises:
        SettingsError: it is neither; the message says what an address looks like.
    """
    host, separator, port = text.strip().rpartition(":") if is_text(text) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    legal_host = bool(host) and (bracketed or ":" not in host) and not re.search(r"[\s/,@\[\]]", host)
    if not separator or not legal_host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise SettingsError(f"{text!r} is not an address: write host:port, such as 127.0.0.1:7470")
    return Address(host, int(port))


def parse_addresses(text: str | Sequence[str]) -> list[Address]:
    """Read a comma-separated text, or a sequence, of addresses; at least one.

    Raises:
        SettingsError: one is malformed, or none is given.
    """
    try:
        items = text.split(",") if isinstance(text, str) else list(text)
    except TypeError:
        raise SettingsError(
            f"{text!r} is no address: write host:port, such as 127.0.0.1:7470, or a list of them"
        ) from None
    if not items:
        raise SettingsError("no index address is given: write host:port, such as 127.0.0.1:7470")
    return [parse_address(item) for item in items]
