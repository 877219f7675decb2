"""A peer's copy of the topic on its disk, and the transactions that change it.

A transaction takes effect as a whole when the disk has it. A crash loses those that it does not have yet; or it keeps
some of them of which nobody was told, as a power failure between the disk's work and its answer does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pubsub.core.epochs import Bond, EpochStart, last_epoch
from pubsub.core.ownership import Candidate
from pubsub.core.replication import Config, Membership, Proposal
from tests.simulation.nodes import Node
from tests.simulation.scheduler import MS

Transaction = Callable[["Copy"], Any]


class Entry(NamedTuple):
    """A message."""

    epoch: int
    owner: str
    producer: str
    sequence: int


class Copy:
    """What is on disk."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.epochs: tuple[EpochStart, ...] = ()
        self.bond = Bond()
        self.committed = 0
        self.config: Config | None = None
        self.owns = False
        self.membership: Membership | None = None
        self.proposal: Proposal | None = None
        self.configs: tuple[Config, ...] = ()
        self.producers: dict[str, list[int]] = {}
        """Producer -> offsets of its messages, by sequence."""
        self.orphaned = 0
        self.sound = True
        """False: it has lost something, and was not told since that it is sound."""

    def append(self, entry: Entry) -> int:
        self.producers.setdefault(entry.producer, []).append(len(self.log))
        self.log.append(entry)
        return len(self.log) - 1

    def cut(self, at: int, *, producers_too: bool) -> None:
        cut = self.log[at:]
        del self.log[at:]
        self.orphaned += len(cut)
        if producers_too:
            for entry in reversed(cut):
                self.producers[entry.producer].pop()

    def candidate(self, peer: str) -> Candidate:
        return Candidate(
            peer=peer,
            last_epoch=last_epoch(self.epochs),
            log_end=len(self.log),
            committed=self.committed,
            heard=self.bond.highest,
            sound=self.sound,
        )


class Disk:
    """Writes transactions in groups, one group after the other."""

    def __init__(self, node: Node, copy: Copy) -> None:
        self._node = node
        self.copy = copy
        self._waiting: list[tuple[Transaction, Callable[[Any], None]]] = []
        self._writing: list[tuple[Transaction, Callable[[Any], None]]] = []

    def write(self, transaction: Transaction, then: Callable[[Any], None] = lambda _: None) -> None:
        self._waiting.append((transaction, then))
        if not self._writing:
            self._begin()

    def crash(self) -> None:
        """Power is lost."""
        scheduler = self._node.scheduler
        if self._writing and scheduler.chance(0.5):
            for transaction, _ in self._writing:
                transaction(self.copy)
        self._writing, self._waiting = [], []

    def _begin(self) -> None:
        self._writing, self._waiting = self._waiting, []
        scheduler = self._node.scheduler
        slow = scheduler.chance(0.02)
        self._node.later(scheduler.between(MS, 300 * MS if slow else 8 * MS), self._end)

    def _end(self) -> None:
        writing, self._writing = self._writing, []
        answers = [(then, transaction(self.copy)) for transaction, then in writing]
        for then, answer in answers:
            then(answer)
        if self._waiting and not self._writing:
            self._begin()
