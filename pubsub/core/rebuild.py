"""How the record of a replicated topic is made again after the registry has lost it, or went back in time.

The copies are all that is left, and they may have been told different things. Rules:

- No ownership is decided before a full ttl has passed since the registry's life began: so whoever acted on the former
  life's word has been heard of, or is not heard any more.
- Until then, and for as long as too few copies are alive, the topic goes on as its owner and copies know it. Its record
  is restored from what they announce, so that it can be found; nothing follows of it (`ownership.is_confirmed`), and
  nobody changes it but by these rules.
- Then an index asks the copies to *promise* a new epoch: to take nothing of older ones any more. A copy that has heard
  of that epoch, or a newer one, refuses; it stores its promise before it answers, with the length of its log.
- A committed message is on `min_in_sync` copies at least (core/replication). So with the promises of `replicas -
  min_in_sync + 1` of them, and of a majority, every message that was committed, or still can be, is on one that
  promised; and the longest of their logs (last epoch, then end) has all of them, as in Paxos or Raft.
- That copy is the owner of the promised epoch. In sync are it and those that are equal to it.

How many copies there are is told by the newest `Config` that anybody knows of; a change of it takes effect only once
enough copies have stored it.

With two copies a message may be committed on one of them, so both must answer: where the registry is lost while one of
the two is away, the topic waits for it, or for an operator.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from pubsub.core.ownership import Candidate, Change, Record, changed, config_of
from pubsub.core.replication import Config, answers_needed


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """A copy's answer to the request to promise an epoch."""

    candidate: Candidate
    promised: int
    """The epoch that was asked for; otherwise it refused, and this is the newest one that it knows of."""
    config: Config | None
    """The newest that its owner told it."""


class Short(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing can be decided: so many more of these copies must promise."""

    missing: int
    of: tuple[str, ...]


def newest_config(record: Record, promises: Iterable[Promise]) -> Config:
    """On which copies the topic lives, as far as anybody knows."""
    told = (promise.config for promise in promises if promise.config is not None)
    return max([config_of(record), *told], key=lambda config: config.order)


def rebuild(record: Record, promises: Iterable[Promise], *, epoch: int, life: str) -> Change | Short:
    """The record, decided upon anew, from promises of `epoch`."""
    promises = list(promises)
    config = newest_config(record, promises)
    voters = [
        promise.candidate
        for promise in promises
        # A copy that has lost something cannot speak for what it had.
        if promise.promised == epoch and promise.candidate.sound and promise.candidate.peer in config.replicas
    ]
    needed = answers_needed(len(set(config.replicas)), config.min_in_sync)
    if len(voters) < needed:
        return Short(missing=needed - len(voters), of=config.replicas)
    best = min(voters, key=lambda c: (-c.last_epoch, -c.log_end, c.peer != record.owner, c.peer))
    equals = sorted(c.peer for c in voters if c.length == best.length and c.peer != best.peer)
    return changed(
        record,
        owner=best.peer,
        epoch=epoch,
        in_sync=(best.peer, *equals),
        replicas=config.replicas,
        leaving=tuple(peer for peer in record.leaving if peer in config.replicas),
        life=life,
        lossy=False,
    )


Fate = Literal["keep", "restore", "advance", "follow", "set_aside"]
"""What becomes of an announced copy; the id of its topic is right, and not buried.

`restore`: there is no record; make one of it, unconfirmed (its `life` is empty). `advance`: it knows of a newer epoch
than an unconfirmed record; make that one say so. `follow`: it was the owner, and is a replica now. `set_aside`: the
topic does not live there any more.
"""


def fate_of(peer: str, role: str, epoch: int, record: Record | None, *, life: str) -> Fate:
    """What becomes of a copy of a replicated topic that `peer` announces.

    Args:
        epoch: The newest that the copy knows of.
    """
    if record is None:
        return "restore"
    if record.life != life and epoch > record.epoch:
        return "advance"
    if peer not in record.replicas:
        return "set_aside"
    if role == "owner" and record.owner != peer and record.epoch >= epoch:
        return "follow"
    return "keep"
