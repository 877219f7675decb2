"""What peers and indexes say to each other, and how long they are patient with each other."""

from __future__ import annotations

import msgspec

from pubsub.core.epochs import EpochStart
from pubsub.core.replication import Config
from tests.simulation.copies import Entry
from tests.simulation.registry import Record
from tests.simulation.scheduler import MS

TTL = 1_500 * MS
LAG = 1_200 * MS
BATCH = 8
EPOCHS_SENT = 2
"""So few that older ones are asked for now and then."""


class Announcement(msgspec.Struct, frozen=True):
    """What a peer tells of its copy with a heartbeat."""

    owns: bool
    heard: int
    epoch: int
    owner: str
    config: Config | None
    in_sync: tuple[str, ...]
    sound: bool


class Answer(msgspec.Struct, frozen=True):
    """What an index answers."""

    life: str
    record: Record | None


class Parted(msgspec.Struct, frozen=True):
    """Where a follower's log and the owner's part; None: send older epochs."""

    parting: int | None
    epochs: tuple[EpochStart, ...]


class Batch(msgspec.Struct, frozen=True):
    """A part of the owner's log."""

    start: int
    entries: tuple[Entry, ...]
    epochs: tuple[EpochStart, ...]
    committed: int
    config: Config
    admits: int | None
    """The incarnation of the follower that shall know that it is sound."""
