"""What `pubsub bench` and its worker processes say to each other: JSON, one object a line, by stdin and stdout.

A worker is told its task when it is started, says that it is ready, takes orders, and reports once. The end of its
stdin means that nobody wants it any more. Instants are ns of the monotonic clock, which all of them share.
"""

from __future__ import annotations

import msgspec

from pubsub.cli.bench_histogram import Histogram
from pubsub.cli.bench_messages import Came

CALLERS = 8
"""Of each publisher: so many calls may wait for their acknowledgement at the same time. Each caller is a stream."""

FLAT_OUT_CALLERS = 4
"""So many are enough to keep its connection full, two batches each; more would only wait longer in the queue."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do: several publishers, or several subscribers."""

    publish: bool
    members: list[int]
    """Which of the publishers, or subscribers, it plays."""
    index: str
    topic: str
    size_bytes: int
    seconds: float
    rate: int | None
    """Messages a second of all publishers together; None: as fast as they are acknowledged."""
    publishers: int
    """How many there are in all."""
    first_stream: int
    timeout_seconds: float
    verbose: int

    @property
    def streams(self) -> int:
        """How many there are in all."""
        return count_streams(self.publishers)


def count_streams(publishers: int) -> int:
    """How many streams so many publishers have; the first is that of the messages that warm up."""
    return 1 + publishers * CALLERS


# Orders


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Publish, from this instant on."""

    at_ns: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """A publisher begins no more calls; a subscriber waits no longer for what has not come."""


class Await(msgspec.Struct, frozen=True, tag=True):
    """A subscriber waits for the rest: so many messages of each stream have been published."""

    published: list[int]


Order = Begin | Stop | Await


# Answers


class Ready(msgspec.Struct, frozen=True, tag=True):
    """All is prepared."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """So many messages have been acknowledged, or delivered, so far."""

    count: int


class Published(msgspec.Struct, kw_only=True, tag=True):
    """The report of publishers."""

    counts: dict[int, int]
    """Stream -> acknowledged."""
    latency: Histogram
    """From the instant of each message to its acknowledgement."""
    ended_ns: int
    """When the last acknowledgement came; 0 if none did."""


class Delivered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The report of subscribers."""

    came: Came
    latency: Histogram
    """From the instant of each message to its delivery."""
    ended_ns: int
    """When the last message came; 0 if none did."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It cannot go on."""

    message: str


Answer = Ready | Progress | Published | Delivered | Failed

encode = msgspec.json.Encoder().encode
decode_task = msgspec.json.Decoder(Task).decode
decode_order = msgspec.json.Decoder(Order).decode
decode_answer = msgspec.json.Decoder(Answer).decode
