"""Classic bugs of log replication, brought back one at a time, to see that the simulation finds each.

They live here only: the product has no switch for any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from pubsub.core.epochs import Bond, Cut, EpochStart, last_epoch
from pubsub.core.failover import choose_owner
from pubsub.core.ownership import Candidate, Change, Record, changed
from pubsub.core.rebuild import Promise, Short
from pubsub.core.rebuild import rebuild as rebuild_well
from pubsub.core.replication import Config, OwnerProgress
from tests.simulation.checks import RecoveryError, ViolationError
from tests.simulation.rules import Rules
from tests.simulation.scheduler import SECOND
from tests.simulation.world import World


class TruncatesToTheCommittedMark(Rules):
    """A follower cuts its log off where it knows it to be committed, not where the logs part (KIP-101).

    What it knows of that lags behind, so for a moment messages are gone that the others rely on.
    """

    def cut(self, parting: int, committed: int, log_end: int, owner_epochs: Sequence[EpochStart]) -> Cut:
        at = min(committed, log_end)
        return Cut(at=at, orphaned=0, diverged=False)


class ComparesLengthsOnly(Rules):
    """Where logs part is told from their lengths (before KIP-101)."""

    def parting(
        self, owner: Sequence[EpochStart], owner_end: int, follower: Sequence[EpochStart], follower_end: int
    ) -> int | None:
        return min(owner_end, follower_end)


class LooksAtTheLastEpochOnly(Rules):
    """The owner answers for the follower's last epoch, or the end of what it has of earlier ones (before KIP-279)."""

    def parting(
        self, owner: Sequence[EpochStart], owner_end: int, follower: Sequence[EpochStart], follower_end: int
    ) -> int | None:
        asked = last_epoch(follower)
        end = next((entry.start for entry in owner if entry.epoch > asked), owner_end)
        return min(end, follower_end)


class DoesNotRecordEmptyEpochs(Rules):
    """An owner's epoch goes into its list only with its first message; here: with no data it is left out."""

    def opened(
        self, found: Sequence[EpochStart], epoch: int, log_end: int, owner: str
    ) -> tuple[EpochStart, ...]:
        return tuple(found) if found else super().opened(found, epoch, log_end, owner)


class _ForgetsTheOutgoing(OwnerProgress):
    @property
    def counted(self) -> set[str]:
        return self.in_sync


class CountsTheOutgoingNoMore(Rules):
    """A copy on its way out counts no more as soon as that is proposed."""

    progress = _ForgetsTheOutgoing


class _ForgetsTheIncoming(OwnerProgress):
    @property
    def counted(self) -> set[str]:
        return set(self.membership.in_sync)


class CountsTheIncomingLate(Rules):
    """A copy on its way in counts only once the registry has confirmed it (KAFKA-3033 and its like)."""

    progress = _ForgetsTheIncoming


class AcceptsAStaleEpoch(Rules):
    """Appends are taken from whoever calls itself the owner, whatever the epoch."""

    def takes(self, bond: Bond, epoch: int, owner: str) -> bool:
        return True

    def follows(self, bond: Bond, epoch: int, owner: str) -> bool:
        return True


class PromotesALaggingCopy(Rules):
    """When no in-sync copy answers, one that does is better than none."""

    def judge(self, record: Record, life: str, settled: bool, alive: set[str]) -> str:
        verdict = super().judge(record, life, settled, alive)
        return "fail_over" if verdict == "offline" and set(record.replicas) & alive else verdict

    def fail_over(
        self, record: Record, candidates: list[Candidate], alive: set[str], epoch: int, life: str
    ) -> Change | None:
        change = super().fail_over(record, candidates, alive, epoch, life)
        if change is not None:
            return change
        others = sorted(set(record.replicas) & alive)
        return (
            changed(record, owner=others[0], epoch=epoch, in_sync=(others[0],), life=life) if others else None
        )


class ResetsTheEpochAfterAWipe(Rules):
    """The registry counts epochs, begins anew when it has lost its count, and the peers heed what it says."""

    def restored(self, epoch: int) -> int:
        return 1

    def next_epoch(self, known: Iterable[int], now: int) -> int:
        return next(iter(known), 0) + 1

    def is_confirmed(self, record: Record, life: str) -> bool:
        return True

    def judge(self, record: Record, life: str, settled: bool, alive: set[str]) -> str:
        return super().judge(record, record.life, settled, alive)

    def fail_over(
        self, record: Record, candidates: list[Candidate], alive: set[str], epoch: int, life: str
    ) -> Change | None:
        return super().fail_over(record, candidates, alive, epoch, record.life)

    def is_newer(self, epoch: int, known: int) -> bool:
        return epoch != known

    def takes(self, bond: Bond, epoch: int, owner: str) -> bool:
        return epoch != bond.epoch or owner == bond.owner

    def opened(
        self, found: Sequence[EpochStart], epoch: int, log_end: int, owner: str
    ) -> tuple[EpochStart, ...]:
        return (*found, EpochStart(epoch, log_end, False, owner))


class BelievesARecordOfBefore(Rules):
    """A record that a registry has from an old snapshot, or from announcements, is taken for true."""

    def is_confirmed(self, record: Record, life: str) -> bool:
        return True

    def judge(self, record: Record, life: str, settled: bool, alive: set[str]) -> str:
        return super().judge(record, record.life, settled, alive)

    def fail_over(
        self, record: Record, candidates: list[Candidate], alive: set[str], epoch: int, life: str
    ) -> Change | None:
        change = super().fail_over(record, candidates, alive, epoch, record.life)
        return None if change is None else msgspec.structs.replace(change, life=life)

    def hand_over(
        self, record: Record, successor: str, epoch: int, life: str, leaving: bool
    ) -> Change | None:
        return super().hand_over(record, successor, epoch, record.life, leaving)


class RebuildsFromAnybody(Rules):
    """After a loss of the registry the longest of those that answered first becomes the owner."""

    def rebuild(self, record: Record, promises: list[Promise], epoch: int, life: str) -> Change | Short:
        best = choose_owner({p.candidate.peer for p in promises}, [p.candidate for p in promises])
        if best is None:
            return rebuild_well(record, promises, epoch=epoch, life=life)
        return changed(record, owner=best.peer, epoch=epoch, in_sync=(best.peer,), life=life)

    def judge(self, record: Record, life: str, settled: bool, alive: set[str]) -> str:
        verdict = super().judge(record, life, settled, alive)
        return "rebuild" if verdict == "wait" and settled and set(record.replicas) & alive else verdict


class RebuildsByLengthOnly(Rules):
    """The longest log is taken, whatever the epoch of its end."""

    def rebuild(self, record: Record, promises: list[Promise], epoch: int, life: str) -> Change | Short:
        blind = [
            msgspec.structs.replace(p, candidate=msgspec.structs.replace(p.candidate, last_epoch=0))
            for p in promises
        ]
        return super().rebuild(record, blind, epoch, life)


class ForgetsItsProposal(Rules):
    """A proposal is sent before it is on disk, so a restarted owner does not know of it."""

    proposal_is_stored_first = False


class KeepsProducersOfWhatWasCut(Rules):
    """A log is cut, but the producers' numbers are not taken back: a retry is taken for stored."""

    producers_are_taken_back = False


class _CommitsAlone(OwnerProgress):
    def _advance(self) -> None:
        ends = [self.log_end_of(peer) for peer in self.counted]
        if None not in ends:
            self.committed = max(self.committed, min(end for end in ends if end is not None))


class CommitsOnTooFewCopies(Rules):
    """What the in-sync copies have is committed, however few they are (before KIP-966)."""

    progress = _CommitsAlone


class BelievesAnEmptyDisk(Rules):
    """A copy that has lost everything is taken for one that never had anything: it votes, and counts as before."""

    def may_own(self, sound: bool) -> bool:
        return True

    def says(self, sound: bool) -> bool:
        return True

    def rebuild(self, record: Record, promises: list[Promise], epoch: int, life: str) -> Change | Short:
        believed = [
            msgspec.structs.replace(p, candidate=msgspec.structs.replace(p.candidate, sound=True))
            for p in promises
        ]
        return super().rebuild(record, believed, epoch, life)

    def fail_over(
        self, record: Record, candidates: list[Candidate], alive: set[str], epoch: int, life: str
    ) -> Change | None:
        believed = [msgspec.structs.replace(candidate, sound=True, committed=0) for candidate in candidates]
        return super().fail_over(record, believed, alive, epoch, life)


class _ForgetsTheFormerSet(OwnerProgress):
    def _add_config(self, config: Config) -> None:
        self._configs = [config]


class ForgetsTheFormerSetOfCopies(Rules):
    """A new set of copies counts alone from the first moment, and copies are changed as fast as the registry can."""

    progress = _ForgetsTheFormerSet

    def may_change(self, record: Record, stored: Mapping[str, Config | None]) -> bool:
        return True


class Bug(NamedTuple):
    """A bug, and how to look for it: the number of copies, the faults; None and none: whatever the seeds draw."""

    rules: type[Rules]
    copies: int | None = None
    faults: tuple[str, ...] = ()


BUGS: dict[str, Bug] = {
    "truncate to the committed mark": Bug(TruncatesToTheCommittedMark),
    "compare lengths only": Bug(ComparesLengthsOnly),
    "look at the last epoch only": Bug(
        LooksAtTheLastEpochOnly, 3, ("crash_owner", "stop_owner", "owner_while_it_waits")
    ),
    "do not record empty epochs": Bug(DoesNotRecordEmptyEpochs),
    "count the outgoing copy no more": Bug(CountsTheOutgoingNoMore, 2, ("cut_off", "stop_owner")),
    "count the incoming copy late": Bug(
        CountsTheIncomingLate, 2, ("crash", "crash_owner", "stop_index", "one_way")
    ),
    "accept a stale epoch": Bug(AcceptsAStaleEpoch, 3, ("stop_owner", "bad_network", "cut_off")),
    "promote a lagging copy": Bug(PromotesALaggingCopy),
    "reset the epoch after a wipe": Bug(ResetsTheEpochAfterAWipe),
    "believe a record of before": Bug(BelievesARecordOfBefore, 2, ("save", "set_back", "crash")),
    "rebuild from anybody": Bug(RebuildsFromAnybody),
    "rebuild by length only": Bug(
        RebuildsByLengthOnly, 3, ("registry_and_owner", "last_one_standing", "crash", "cut_off")
    ),
    "forget the proposal at a restart": Bug(
        ForgetsItsProposal, 2, ("owner_while_it_waits", "cut_off", "one_way")
    ),
    "keep the producers of what was cut": Bug(KeepsProducersOfWhatWasCut),
    "believe an empty disk": Bug(BelievesAnEmptyDisk, 3, ("lose_disk", "crash", "wipe")),
    "forget the former set of copies": Bug(
        ForgetsTheFormerSetOfCopies, 3, ("move", "registry_and_owner", "last_one_standing")
    ),
    "commit on too few copies": Bug(CommitsOnTooFewCopies, 3, ("last_one_standing", "wipe", "crash")),
}
"""By what they do. For the rare ones the faults are chosen of which it takes several at once."""


def seed_that_finds(bug: Bug, seeds: Iterable[int]) -> int | None:
    """The first of these seeds in which a rule is broken by the bug; that the cluster gets stuck is not enough."""
    for seed in seeds:
        try:
            World(seed, bug.rules(), copies=bug.copies, faults=bug.faults).run(mended_within=5 * SECOND)
        except ViolationError:
            return seed
        except (RecoveryError, ValueError):
            continue
    return None
