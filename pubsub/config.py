"""Every setting, declared once: its unit, its default, what it costs. Validated when it is made.

Users set the few that matter by arguments of `Peer`, `Client` and the command line; the others are here so
that a test or an unusual site can change them without touching code.
"""

from __future__ import annotations

import msgspec

from pubsub.errors import SettingsError

KIB = 1024
MIB = 1024 * KIB

DEFAULT_INDEX = "127.0.0.1:7470"
DEFAULT_EMBEDDED_REGISTRY = "127.0.0.1:7479"
DEFAULT_NAMESPACE = "pubsub"


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

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if getattr(self, field) <= 0:
                raise SettingsError(f"the limit {field} must be more than 0, not {getattr(self, field)}")
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
        for field in self.__struct_fields__:
            if getattr(self, field) <= 0:
                raise SettingsError(f"the setting {field} must be more than 0, not {getattr(self, field)}")


class StorageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a peer uses its file."""

    group_bytes: int = 4 * MIB
    """Payload in one transaction at most; bounds how long a commit takes."""
    queue_bytes: int = 8 * MIB
    """Waiting for a commit; beyond it the connections that publish are not read from."""
    checkpoint_bytes: int = 16 * MIB
    """Size of the write-ahead log from which it is copied into the file."""
    read_messages: int = 2000
    """Messages in one read from disk at most."""
    read_bytes: int = MIB
    """Payload from which a read from disk stops."""
    quick_check_bytes: int = 64 * MIB
    """Files up to this size are checked whole at start; of larger ones only the structure."""
    producer_days: int = 7
    """A producer that has not published for so long is forgotten; its retries are then new messages."""
    probe_seconds: float = 1.0
    """How often a peer that could not write tries whether it can again."""


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


class IndexSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an index believes and answers."""

    ttl_seconds: float = 6.0
    """How long a peer is believed alive after a heartbeat; it sends one each third of this."""
    dial_seconds: float = 2.0
    """How long dialling back the advertised address of a peer may take."""
    page_topics: int = 1000
    """Topics in one frame of a list."""

    def __post_init__(self) -> None:
        if not 0.3 <= self.ttl_seconds <= 3600:
            raise SettingsError(f"the ttl must be 0.3 to 3600 seconds, not {self.ttl_seconds:g}")
