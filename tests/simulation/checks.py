"""What must hold after every step: the invariants of the issue, against a ledger of all that was ever committed.

Only what has changed is looked at: a copy when its log, its epochs or its committed mark moved, the record when it was
written, a reader when it was given something.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pubsub.core.epochs import EpochStart
from tests.simulation.copies import Copy, Entry


class ViolationError(AssertionError):
    """A rule did not hold."""


class RecoveryError(AssertionError):
    """Everything was mended, and still the cluster does not do its work."""


def demand(holds: bool, text: str) -> None:
    if not holds:
        raise ViolationError(text)


class Ledger:
    """All that is known to be committed, and by whom."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self._sequences: dict[str, int] = {}
        """Producer -> its next sequence."""
        self._committers: dict[int, str] = {}
        self._written: dict[tuple[int, str, int], Entry] = {}
        """(epoch, owner, offset) -> the message."""
        self._epochs: dict[str, int] = {}
        """Peer -> the newest that it was seen to be bound to."""
        self._read: dict[str, int] = {}

    def appended(self, peer: str, offset: int, entry: Entry) -> None:
        """A message was written into some log: an offset of an epoch is given once."""
        key = (entry.epoch, entry.owner, offset)
        known = self._written.setdefault(key, entry)
        demand(
            known == entry,
            f"{peer} has {entry} at offset {offset}, which was given to {known} in the same epoch",
        )

    def committed(self, peer: str, epoch: int, log: Sequence[Entry], before: int, after: int) -> None:
        """The owner of an epoch says that everything below `after` is committed."""
        demand(after >= before, f"{peer} takes back what it called committed: {before} -> {after}")
        known = len(self.log)
        self._agree(peer, log, before, min(after, known))
        if after <= known:
            return
        owner = self._committers.setdefault(epoch, peer)
        demand(owner == peer, f"{peer} and {owner} both commit in epoch {epoch}")
        for offset in range(known, after):
            entry = log[offset]
            wanted = self._sequences.get(entry.producer, 0)
            demand(
                entry.sequence == wanted,
                f"{peer} commits message {entry.sequence} of {entry.producer} at offset {offset}; "
                f"{wanted} is the next one of it",
            )
            self._sequences[entry.producer] = wanted + 1
            self.log.append(entry)

    def known_committed(self, peer: str, copy: Copy, before: int) -> None:
        """A copy has heard that so much is committed: it is equal to all others there."""
        demand(
            copy.committed <= len(self.log),
            f"{peer} takes {copy.committed} messages for committed, which are {len(self.log)}",
        )
        demand(copy.committed <= len(copy.log), f"{peer} lacks what it knows to be committed")
        self._agree(peer, copy.log, before, copy.committed)

    def was_cut(self, peer: str, copy: Copy) -> None:
        demand(len(copy.log) >= copy.committed, f"{peer} cut off what it knew to be committed")

    def bound(self, peer: str, epoch: int, owner: str, epochs: Sequence[EpochStart]) -> None:
        """A copy follows, or owns, in this epoch."""
        before = self._epochs.get(peer, 0)
        demand(epoch >= before, f"{peer} goes back from epoch {before} to {epoch}")
        self._epochs[peer] = epoch
        for entry, later in pairwise(epochs):
            demand(entry.epoch < later.epoch and entry.start <= later.start, f"{peer} has epochs {epochs}")

    def lost(self, peer: str) -> None:
        """Its disk is another one."""
        self._epochs.pop(peer, None)

    def acknowledged(self, producer: str, sequence: int, offset: int) -> None:
        """A publisher was told that its message is committed."""
        there = self.log[offset] if offset < len(self.log) else None
        demand(
            there is not None and (there.producer, there.sequence) == (producer, sequence),
            f"{producer} was told that its message {sequence} is at offset {offset}, where {there} is",
        )

    def read(self, reader: str, position: int, entries: Sequence[Entry]) -> int:
        """A subscriber was given these messages, the first of them at `position`; its next position."""
        demand(position == self._read.get(reader, 0), f"{reader} is given offset {position} out of turn")
        end = position + len(entries)
        demand(
            list(entries) == self.log[position:end],
            f"{reader} was given {entries} at {position}, committed is {self.log[position:end]}",
        )
        self._read[reader] = end
        return end

    def _agree(self, peer: str, log: Sequence[Entry], start: int, end: int) -> None:
        demand(len(log) >= end, f"{peer} has {len(log)} messages of {end} that were committed")
        if log[start:end] == self.log[start:end]:
            return
        for offset in range(start, end):
            demand(
                log[offset] == self.log[offset],
                f"{peer} has {log[offset]} at offset {offset}, where {self.log[offset]} was committed",
            )
