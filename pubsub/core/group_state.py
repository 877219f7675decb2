"""What a group stores of a message, and what it tells to be stored."""

from __future__ import annotations

import msgspec

READY = "ready"
IN_FLIGHT = "in_flight"
DELAYED = "delayed"
DYING = "dying"

NACKED = "nack"
EXPIRED = "lease expired"
LOST = "member lost"
"""Why a message is dying."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A message of a group as it is stored. `key` is that of the message, and is not stored with it."""

    offset: int
    state: str
    attempts: int
    due_us: int
    member: str
    key: str | None = None


class Run(msgspec.Struct, frozen=True, gc=False):
    """Consecutive offsets, `first` to `last`, whose rows are alike."""

    first: int
    last: int
    state: str
    attempts: int
    due_us: int
    member: str


class Changes(msgspec.Struct, frozen=True):
    """What is to be stored: rows that are now like this, offsets that have none any more, the cursor."""

    cursor: int
    runs: list[Run]
    gone: list[tuple[int, int]]
    """First and last of consecutive offsets."""


class Counts(msgspec.Struct, frozen=True):
    """How many messages below the cursor there are in each state."""

    ready: int
    in_flight: int
    delayed: int
    dying: int


class Entry(msgspec.Struct, gc=False):
    """What is known of a message that is below the cursor and not done."""

    state: str
    attempts: int
    due_us: int
    """End of the lease or of the delay; 0 otherwise."""
    member: str
    """Who has it in flight; of a dying one, why it was given up."""
    key: str | None
    """Of an ordered group only."""
    size_bytes: int


def runs_of(offsets: list[int], entries: dict[int, Entry]) -> tuple[list[Run], list[tuple[int, int]]]:
    """Rows of these offsets, which rise: as runs that are alike, and as runs of those that are there no more."""
    runs: list[Run] = []
    gone: list[tuple[int, int]] = []
    first, last, like = 0, -2, None
    for offset in [*offsets, -1]:
        entry = entries.get(offset)
        now = None if entry is None else (entry.state, entry.attempts, entry.due_us, entry.member)
        if offset == last + 1 and now == like and offset >= 0:
            last = offset
            continue
        if last >= 0:
            if like is None:
                gone.append((first, last))
            else:
                runs.append(Run(first, last, *like))
        first = last = offset
        like = now
    return runs, gone
