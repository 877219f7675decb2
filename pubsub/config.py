"""Every setting, declared once: its unit, its default, what it costs. Validated when it is made.

Users set the few that matter by arguments of `Peer`, `Client` and the command line; the others are here so
that a test or an unusual site can change them without touching code.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from pubsub.errors import SettingsError

KIB = 1024
MIB = 1024 * KIB

DEFAULT_INDEX = "127.0.0.1:7470"
DEFAULT_EMBEDDED_REGISTRY = "127.0.0.1:7479"
DEFAULT_NAMESPACE = "pubsub"

MOST_SECONDS = 3660 * 86_400.0
"""The longest time that can be set, ten years: what is longer is a mistake in a unit."""
MOST_NUMBER = 2**53 - 1

S = TypeVar("S", bound=msgspec.Struct)


def check_number(name: str, value: object, *, whole: bool) -> None:
    """A setting: a number of seconds if it is not whole.

    Raises:
        SettingsError: it is no number, not more than 0, or far too large.
    """
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise SettingsError(f"{name} is a {'whole ' if whole else ''}number, not {value!r}")
    if not value > 0:  # nan is not, either
        raise SettingsError(
            f"{name} must be more than 0" + (f", not {value}" if value > -MOST_NUMBER else "")
        )
    most = MOST_NUMBER if whole else MOST_SECONDS
    if value > most:  # too large, perhaps, to be written here
        raise SettingsError(f"{name} may be {most:.0f} at most")


def settings_of(kind: type[S], given: S | None) -> S:
    """The settings that an application gave, or the defaults.

    Raises:
        SettingsError: they are something else.
    """
    if given is not None and not isinstance(given, kind):
        raise SettingsError(f"settings of this kind are {kind.__name__}(...), not {type(given).__name__}")
    return kind() if given is None else given


def _check_numbers(settings: msgspec.Struct, what: str) -> None:
    for field, default in zip(settings.__struct_fields__, settings.__struct_defaults__, strict=True):
        check_number(f"the {what} {field}", getattr(settings, field), whole=isinstance(default, int))


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what crosses a connection. Both ends hold to them."""

    frame_bytes: int = 16 * MIB
    """Largest frame. A larger one is an error and closes the connection."""
    message_bytes: int = MIB
    """Largest message: payload, key and headers together."""
    batch_messages: int = 1000
    """Most messages in one batch that a client sends or a peer delivers."""
    batch_bytes: int = MIB
    """Size from which a batch is closed; one message may exceed it."""
    hello_seconds: float = 10.0
    """A connection that has not said hello by then is closed."""
    write_buffer_bytes: int = MIB
    """From here on a connection whose other end does not read is not written to or read from any more."""
    running_requests: int = 64
    """Slow requests (queries, lists) that one connection may have under way; more wait their turn."""
    subscriptions: int = 10_000
    """Subscriptions on one connection."""
    connections: int = 10_000
    """Connections to one server, or 120 fewer than the process may have open files; one too many is told so."""
    frame_seconds: float = 60.0
    """A connection that has begun a frame and not sent the rest of it by then is closed."""

    def __post_init__(self) -> None:
        _check_numbers(self, "limit")
        if self.message_bytes + 64 * KIB > self.frame_bytes:
            raise SettingsError(
                f"message_bytes ({self.message_bytes}) must leave 64 KiB of frame_bytes ({self.frame_bytes})"
            )


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a client waits, retries and buffers."""

    timeout_seconds: float = 30.0
    """How long a call is retried before it raises."""
    connect_seconds: float = 3.0
    """How long one attempt to connect, with the hello, may take."""
    backoff_first_seconds: float = 0.05
    backoff_most_seconds: float = 2.0
    batches_in_flight: int = 8
    """Unacknowledged batches of one topic. Must not exceed what a peer remembers of a producer."""
    pending_bytes: int = 16 * MIB
    """Published but not yet sent, of one topic; beyond it `publish` waits."""
    window_messages: int = 10_000
    """Messages that a subscription may hold before the application takes them."""
    window_bytes: int = 8 * MIB
    """Their size; a single larger message is still delivered, alone."""

    def __post_init__(self) -> None:
        _check_numbers(self, "setting")


class StorageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a peer uses its file."""

    group_bytes: int = 4 * MIB
    """Payload in one transaction at most; bounds how long a commit takes."""
    queue_bytes: int = 8 * MIB
    """Waiting for a commit; beyond it the connections that publish are not read from."""
    checkpoint_bytes: int = 16 * MIB
    """Size of the write-ahead log from which it is copied into the file."""
    read_messages: int = 4000
    """Messages in one read from disk at most."""
    read_bytes: int = MIB
    """Payload from which a read from disk stops."""
    quick_check_bytes: int = 64 * MIB
    """Files up to this size are checked whole at start; of larger ones only the structure."""
    producer_days: int = 7
    """A producer that has not published for so long is forgotten; its retries are then new messages."""
    probe_seconds: float = 1.0
    """How often a peer that could not write tries whether it can again."""

    def __post_init__(self) -> None:
        _check_numbers(self, "setting")


class PeerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a peer serves and registers."""

    tail_bytes: int = MIB
    """Newest messages of one topic kept in memory for its live subscribers."""
    tails_bytes: int = 16 * MIB
    """The same for all topics together."""
    backoff_first_seconds: float = 0.2
    backoff_most_seconds: float = 2.0
    drain_seconds: float = 5.0
    """How long a closing peer waits for what is under way."""
    retention_seconds: float = 1.0
    """How often it is looked at what may go by the policies of topics."""
    removed_key_seconds: float = 86_400.0
    """How long a message that removes a key is kept by compaction, so that whoever reads now and then sees it."""
    give_back_seconds: float = 10.0
    """Pages of the file that nothing needed for so long are given back to the file system."""
    scrub_bytes: int = 2 * MIB
    """Messages read each second, at most, to see whether they are as they were stored."""
    scrub_seconds: float = 21_600.0
    """How often all of them are; it takes longer where that is not done in time."""

    def __post_init__(self) -> None:
        _check_numbers(self, "setting")


class IndexSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an index believes and answers."""

    ttl_seconds: float = 6.0
    """How long a peer is believed alive after a heartbeat; it sends one each third of this."""
    dial_seconds: float = 2.0
    """How long dialling back the advertised address of a peer may take."""
    page_topics: int = 1000
    """Topics in one frame of a list."""

    def __post_init__(self) -> None:
        number = type(self.ttl_seconds) in (int, float)
        if number and not 0.3 <= self.ttl_seconds <= 3600:
            raise SettingsError("the ttl must be 0.3 to 3600 seconds")
        _check_numbers(self, "setting")
