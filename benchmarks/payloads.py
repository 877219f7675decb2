"""The messages of every run: each says which stream it belongs to, its number there, and an instant.

A subscriber can so tell for each stream whether anything was lost, doubled or put out of order, whatever system
carried the messages.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator

from benchmarks.readings import RunFailedError

HEAD = struct.Struct(">IQQ")
"""Stream, number within the stream from 0 on, intended send time in ns of the monotonic clock (0: not timed)."""

_FILLER = random.Random(1).randbytes(1 << 20)


def payload(stream: int, number: int, size_bytes: int, at_ns: int = 0) -> bytes:
    """One message of `size_bytes`, at least the head; incompressible behind it."""
    start = (number * 61) % (len(_FILLER) - size_bytes)
    return HEAD.pack(stream, number, at_ns) + _FILLER[start : start + size_bytes - HEAD.size]


def payloads(stream: int, count: int, size_bytes: int, first: int = 0) -> list[bytes]:
    """Messages `first` to `first + count` of a stream."""
    return [payload(stream, number, size_bytes) for number in range(first, first + count)]


def instants(messages: Iterable[bytes]) -> Iterator[int]:
    """The intended send time of each message."""
    return (HEAD.unpack_from(message)[2] for message in messages)


def verify(messages: Iterable[bytes], expected: dict[int, int]) -> None:
    """Check that each stream came whole, once and in order. `expected`: stream -> how many of it.

    Raises:
        RunFailedError: it did not; the message counts what is wrong.
    """
    seen = dict.fromkeys(expected, 0)
    lost = repeated = strange = 0
    for message in messages:
        stream, number, _ = HEAD.unpack_from(message)
        if stream not in seen or number >= expected[stream]:
            strange += 1
        elif number < seen[stream]:
            repeated += 1
        else:
            lost += number - seen[stream]
            seen[stream] = number + 1
    lost += sum(count - seen[stream] for stream, count in expected.items())
    if lost or repeated or strange:
        raise RunFailedError(
            f"{lost} of {sum(expected.values())} messages lost, {repeated} doubled or late, {strange} never published"
        )
