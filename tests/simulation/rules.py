"""The rules that a simulated cluster keeps: those of `pubsub.core`, through one door, so that a test may break one.

Peers and indexes call nothing of `pubsub.core` but by this. See tests/simulation/bugs.py for what is broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pubsub.core import epochs, failover, placement, rebuild
from pubsub.core.epochs import Bond, Cut, EpochStart
from pubsub.core.ownership import Candidate, Change, Record, is_confirmed
from pubsub.core.rebuild import Promise, Short
from pubsub.core.replication import Config, OwnerProgress
from tests.simulation.scheduler import MS


class Rules:
    """As they are in the product."""

    progress = OwnerProgress
    producers_are_taken_back = True
    """When a log is cut, so is what is known of producers."""
    proposal_is_stored_first = True
    waits_a_ttl = True
    answers_are_fresh_for = 300 * MS
    """For so long after it asked does a peer believe an answer about its ownership."""

    def takes(self, bond: Bond, epoch: int, owner: str) -> bool:
        return bond.takes(epoch, owner)

    def follows(self, bond: Bond, epoch: int, owner: str) -> bool:
        return bond.follows(epoch, owner)

    def promise(self, bond: Bond, epoch: int) -> Bond | None:
        return bond.promise(epoch)

    def next_epoch(self, known: Iterable[int], now: int) -> int:
        return epochs.next_epoch(known, now)

    def parting(
        self, owner: Sequence[EpochStart], owner_end: int, follower: Sequence[EpochStart], follower_end: int
    ) -> int | None:
        return epochs.where_logs_part(owner, owner_end, follower, follower_end)

    def is_newer(self, epoch: int, known: int) -> bool:
        """Whether a peer that knows of one epoch heeds what is said of another one."""
        return epoch > known

    def restored(self, epoch: int) -> int:
        """The epoch of a record that is made from what a copy says."""
        return epoch

    def opened(
        self, found: Sequence[EpochStart], epoch: int, log_end: int, owner: str
    ) -> tuple[EpochStart, ...]:
        return epochs.opened(found, epoch, log_end, owner=owner)

    def cut(self, parting: int, committed: int, log_end: int, owner_epochs: Sequence[EpochStart]) -> Cut:
        return epochs.plan_cut(
            parting=parting, committed=committed, log_end=log_end, owner_epochs=owner_epochs
        )

    def may_own(self, sound: bool) -> bool:
        """A copy that lost something waits for another one to own the topic."""
        return sound

    def says(self, sound: bool) -> bool:
        """What the owner is told of a copy."""
        return sound

    def is_confirmed(self, record: Record, life: str) -> bool:
        return is_confirmed(record, life)

    def judge(self, record: Record, life: str, settled: bool, alive: set[str]) -> str:
        return failover.judge(record, life=life, settled=settled, alive=alive)

    def fail_over(
        self, record: Record, candidates: list[Candidate], alive: set[str], epoch: int, life: str
    ) -> Change | None:
        return failover.fail_over(record, candidates, alive=alive, epoch=epoch, life=life)

    def hand_over(
        self, record: Record, successor: str, epoch: int, life: str, leaving: bool
    ) -> Change | None:
        return failover.hand_over(record, successor, epoch=epoch, life=life, leaving=leaving)

    def rebuild(self, record: Record, promises: list[Promise], epoch: int, life: str) -> Change | Short:
        return rebuild.rebuild(record, promises, epoch=epoch, life=life)

    def may_change(self, record: Record, stored: Mapping[str, Config | None]) -> bool:
        return placement.may_change(record, stored)
