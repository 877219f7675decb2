"""Which part of a log was written under which owner, where two logs part, and whose word a copy still takes.

A log is a run of messages, each written by the owner of one epoch. A copy keeps, for each epoch of its log, the offset
at which it began. What everything here rests on: an epoch has one owner, the owner gives each offset once, and a
copy takes messages in order; so two logs that have the same epoch at the same offset are equal up to there.

Rules:
- A new owner records (epoch, log end) before it serves, even with no data: else a later owner could not tell what it
  had of it (KIP-101, KIP-279).
- A copy's list is the owner's as far as the copy's log reaches: `reached`. It changes in the transaction that changes
  the log.
- A copy takes messages only in the highest epoch that it has heard of, and from one owner in each: `Bond`. It is stored
  in the transaction that makes the logs agree, and checked in each that appends.

Epochs are numbers that only grow; from the second on they are microseconds of the clock where that is the greater one,
so that a registry that has forgotten them hands none out again (docs/decisions/0007-epochs.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

FIRST_EPOCH = 1
"""Of a topic id: ids are not used again."""


class EpochStart(msgspec.Struct, frozen=True, array_like=True):
    """From which offset on a log was written in an epoch. In a list epochs grow, and starts do not shrink."""

    epoch: int
    start: int
    lossy: bool = False
    """It began with a copy that may have missed committed messages, on an operator's word."""
    owner: str = ""
    """Who wrote it. Two epochs of one number, should a registry ever hand it out twice, are two epochs all the same."""


Epochs = Sequence[EpochStart]


def next_epoch(known: Iterable[int], now: int) -> int:
    """The number of a new epoch.

    Args:
        known: every number that the proposer has heard of: of the record, of announcements, of refusals.
        now: microseconds UTC.
    """
    return max(max(known, default=0) + 1, now)


def last_epoch(epochs: Epochs) -> int:
    """The epoch in which the end of the log was written; 0 of an empty copy that never followed."""
    return epochs[-1].epoch if epochs else 0


def opened(
    epochs: Epochs, epoch: int, log_end: int, *, lossy: bool = False, owner: str = ""
) -> tuple[EpochStart, ...]:
    """The list of an owner that begins `epoch`; unchanged if it had begun it before.

    Raises:
        ValueError: a later epoch is in it.
    """
    if epoch == last_epoch(epochs):
        return tuple(epochs)
    if epoch < last_epoch(epochs):
        raise ValueError(f"epoch {epoch} cannot begin after epoch {last_epoch(epochs)}")
    return (*epochs, EpochStart(epoch, log_end, lossy, owner))


def reached(owner_epochs: Epochs, log_end: int) -> tuple[EpochStart, ...]:
    """The list of a copy that agrees with its owner up to `log_end`."""
    return tuple(entry for entry in owner_epochs if entry.start <= log_end)


def trimmed(epochs: Epochs, first_offset: int) -> tuple[EpochStart, ...]:
    """The list without the epochs of which nothing is kept; starts stay as they are."""
    later_starts = [*(entry.start for entry in epochs[1:]), None]
    return tuple(
        entry
        for entry, later in zip(epochs, later_starts[: len(epochs)], strict=True)
        if later is None or later > first_offset
    )


def end_of(epochs: Epochs, epoch: int, log_end: int) -> int:
    """Where the messages of an epoch in the list end."""
    return next((entry.start for entry in epochs if entry.epoch > epoch), log_end)


def where_logs_part(owner: Epochs, owner_end: int, follower: Epochs, follower_end: int) -> int | None:
    """The offset below which two logs are equal, by the newest epoch that is in both (KIP-279).

    The follower may send only the last of its epochs. None: the owner has none of them; the follower cuts its log off
    where the first one that it sent began, and asks again with older ones.
    """
    if not follower:
        return 0
    known = {(entry.epoch, entry.owner) for entry in owner}
    common = next((entry.epoch for entry in reversed(follower) if (entry.epoch, entry.owner) in known), None)
    if common is None:
        return None
    return min(end_of(owner, common, owner_end), end_of(follower, common, follower_end))


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """What a follower cuts off before it goes on at `at`: 0 <= at <= log end."""

    at: int
    orphaned: int
    """How many offsets are cut off; their messages are kept as orphans."""
    diverged: bool
    """The copy would lose what it knows to be committed: it is damaged. It cuts nothing and sets itself aside."""


def plan_cut(
    *, parting: int, committed: int, log_end: int, owner_epochs: Epochs, owner_first: int = 0
) -> Cut:
    """What a follower does about the place where its log and the owner's part.

    Never below what is committed, unless an epoch that began there or later did so on an operator's word
    (`topic promote --accept-loss`).

    Args:
        owner_first: What the owner still has begins here. If it has forgotten the epochs before (`trimmed`), the logs
            of a follower that was away for long seem to part too early: what is committed below here stays, and the
            follower goes on from here.
    """
    floor = min(committed, log_end)
    if parting < floor <= owner_first:
        parting = floor
    lossy = any(entry.lossy and entry.start >= parting for entry in owner_epochs)
    diverged = parting < floor and not lossy
    at = log_end if diverged else min(parting, log_end)
    return Cut(at=at, orphaned=log_end - at, diverged=diverged)


class Bond(msgspec.Struct, frozen=True, kw_only=True):
    """Whose word a copy takes. Stored with the copy; `promised` and `epoch` only grow."""

    epoch: int = 0
    """The newest that it owned or followed."""
    owner: str = ""
    """Who owns that epoch: no other peer is taken for its owner, whatever a registry says."""
    promised: int = 0
    """It takes nothing of lower epochs any more: see core/rebuild."""

    @property
    def highest(self) -> int:
        return max(self.epoch, self.promised)

    def follows(self, epoch: int, owner: str) -> bool:
        """Whether messages of `owner`, in `epoch`, may be appended: the copy agreed with it, and is bound to it since.

        For the owner's own appends, too.
        """
        return epoch >= self.promised and (epoch, owner) == (self.epoch, self.owner)

    def takes(self, epoch: int, owner: str) -> bool:
        """Whether the copy may begin with `owner` in `epoch`, or go on: open the epoch, or find where the logs part."""
        return (epoch > self.epoch and epoch >= self.promised) or self.follows(epoch, owner)

    def bound(self, epoch: int, owner: str) -> Bond:
        """As it is once it has; ask `takes` first."""
        return Bond(epoch=epoch, owner=owner, promised=self.promised)

    def promise(self, epoch: int) -> Bond | None:
        """As it is once the copy has promised to take nothing older than `epoch`; None: it knows of a newer one.

        An epoch that was promised once is not promised again: two who ask for the same one cannot both get it.
        """
        if epoch <= self.highest:
            return None
        return Bond(epoch=self.epoch, owner=self.owner, promised=epoch)
