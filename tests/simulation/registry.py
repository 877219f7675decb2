"""The registry: one record, deadlines of peers, compare-and-set; it can be wiped, or set back to an older state.

It begins a new life when it is found empty, and when it is another process than the one that the life was begun in:
that may have started from any snapshot. What was decided in one life is not written in another.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pubsub.core.ownership import Change
from tests.simulation.nodes import Network, Node
from tests.simulation.scheduler import Scheduler


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Of the one topic that there is."""

    owner: str
    epoch: int
    version: int = 1
    in_sync: tuple[str, ...]
    replicas: tuple[str, ...]
    leaving: tuple[str, ...] = ()
    policy: dict[str, Any] = {}
    life: str = ""
    lossy: bool = False

    def __str__(self) -> str:
        leaving = f", leaving {' '.join(self.leaving)}" if self.leaving else ""
        policy = " ".join(f"{name}={value}" for name, value in self.policy.items())
        return (
            f"{self.owner} owns in epoch {self.epoch} (version {self.version}, {self.life or 'unconfirmed'}), in sync "
            f"{' '.join(self.in_sync)} of {' '.join(self.replicas)}{leaving}, {policy}"
        )

    def after(self, change: Change, **policy: Any) -> Record:
        fields = msgspec.structs.asdict(change)
        return msgspec.structs.replace(self, policy={**self.policy, **policy}, **fields)


class View(msgspec.Struct, frozen=True):
    """What an index reads."""

    life: str
    began_at: int
    record: Record | None
    deadlines: dict[str, int]


class Registry(Node):
    """Redis."""

    def __init__(self, scheduler: Scheduler, network: Network) -> None:
        super().__init__(scheduler, network, "registry")
        self.record: Record | None = None
        self._deadlines: dict[str, int] = {}
        self._life: tuple[str, int] | None = None
        self._lives = 0
        self._snapshot: tuple[Record | None, dict[str, int]] = (None, {})
        self.on_write: Any = lambda before, after: None

    # What indexes ask for; `now` is by their clocks

    def on_view(self, sender: str, now: int) -> View:
        if self._life is None:
            self._lives += 1
            self._life = (f"life-{self._lives}", now)
            self.say("begins {} with {}", self._life[0], self.record)
        return View(*self._life, self.record, dict(self._deadlines))

    def on_beat(self, sender: str, peer: str, deadline: int, now: int) -> View:
        self._deadlines[peer] = deadline
        return self.on_view(sender, now)

    def on_leave(self, sender: str, peer: str) -> bool:
        self._deadlines.pop(peer, None)
        return True

    def on_cas(
        self, sender: str, life: str, expected: Record | None, record: Record
    ) -> tuple[bool, Record | None]:
        """Epoch and version are compared, and the life in which the decision was taken."""
        key = None if self.record is None else (self.record.epoch, self.record.version)
        wanted = None if expected is None else (expected.epoch, expected.version)
        if self._life is None or self._life[0] != life or key != wanted:
            return False, self.record
        before = self.record
        version = 1 if before is None else before.version + 1
        self.record = msgspec.structs.replace(record, version=version)
        self.say("writes, for {}: {}", sender, self.record)
        self.on_write(before, self.record)
        return True, self.record

    # What is done to it

    def save(self) -> None:
        self._snapshot = (self.record, dict(self._deadlines))

    def wipe(self) -> None:
        self.say("WIPED")
        self.record, self._deadlines, self._life = None, {}, None

    def set_back(self) -> None:
        self.record, self._deadlines = self._snapshot[0], dict(self._snapshot[1])
        self._life = None
        self.say("RESTARTED FROM A SNAPSHOT: {}", self.record)
