"""The history of a run: what every client asked for and was told, in order, as lines of JSON.

Owns the events and the file. Rules: a publish is two events, one before it is sent and one with its outcome; a
publisher whose outcome is unknown never publishes under its name again. What is right or wrong is the checker's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

Outcome = Literal["invoke", "ok", "fail", "unknown"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    at: float = 0.0
    """Seconds since the run began."""


class Publish(_Event, frozen=True, kw_only=True, tag="publish"):
    """A client begins to publish its message `number` of a topic, or learns what has become of it."""

    client: str
    topic: str
    number: int
    outcome: Outcome
    offset: int | None = None
    error: str = ""


class Read(_Event, frozen=True, kw_only=True, tag="read"):
    """A subscriber was given these messages, in this order."""

    client: str
    topic: str
    offsets: list[int]
    messages: list[str]
    """As `message_name` gives them."""


class Broken(_Event, frozen=True, kw_only=True, tag="broken"):
    """Somebody was told an error that no fault explains, or what had to happen in time did not."""

    client: str
    error: str


class Fault(_Event, frozen=True, kw_only=True, tag="fault"):
    """What was done to the cluster."""

    what: str


class Copy(_Event, frozen=True, kw_only=True, tag="copy"):
    """At the end, everything mended: what one peer's file holds of a topic: all of it is committed then."""

    peer: str
    topic: str
    committed: int
    """What it knows of that; it is stored now and then, and may be less."""
    offsets: list[int]
    messages: list[str]
    fingerprints: list[str]
    """Of all columns of each message."""


Event = Publish | Read | Broken | Fault | Copy


def message_name(client: str, number: int) -> str:
    """What a payload begins with; no two messages of a topic have the same."""
    return f"{client}:{number}"


class History:
    """Appends events to a file, and keeps them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self._file = path.open("wb", buffering=0)  # also of a run that is killed
        self._encoder = msgspec.json.Encoder()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def add(self, event: Event) -> None:
        event = msgspec.structs.replace(event, at=round(self.seconds, 3))
        self.events.append(event)
        self._file.write(self._encoder.encode(event) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> Iterator[Event]:
    """The events of a file that an earlier run has left."""
    decoder = msgspec.json.Decoder(Event)
    with path.open("rb") as lines:
        for line in lines:
            yield decoder.decode(line)
