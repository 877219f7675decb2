"""Who owns a topic next: when its owner is gone, hands over, or an operator says so.

Rules:
- Any index may propose; the compare-and-set on the record decides. Each change of the owner has a new epoch.
- Only a copy that is in sync in the record, alive and sound may be chosen: it has everything committed, since the owner
  counts every copy of the record (core/replication). Among those the longest log goes first: less is left behind of
  what was acknowledged by its owner only.
- Who is dead leaves the in-sync set with the change, so that the new owner need not wait for it. The others stay in it;
  any subset that has the new owner is right.
- If no such copy is alive the topic is offline, and waits for one. An operator may promote another copy, which may
  lose what it lacks; the new epoch says so, so that other copies may follow it below what they know as committed.
- A record of another life of the registry decides nothing: core/rebuild.

Decides only; a change that was overtaken is dropped, and looked at anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

import msgspec

from pubsub.core.ownership import (
    Candidate,
    Change,
    Record,
    changed,
    is_confirmed,
    is_replicated,
    min_in_sync,
)
from pubsub.core.replication import answers_needed

Verdict = Literal["fine", "fail_over", "offline", "rebuild", "wait"]
"""`fine`: leave it. `fail_over`: ask the live in-sync copies how long they are, then `fail_over`. `offline`: no
in-sync copy is alive. `rebuild`: the record is unconfirmed and enough copies are alive to decide: core/rebuild. `wait`:
it is unconfirmed, and too early, or too few copies are alive."""


def judge(record: Record, *, life: str, settled: bool, alive: Collection[str]) -> Verdict:
    """What is to be done about a topic.

    Args:
        life: The present generation of the registry.
        settled: A full ttl has passed since that began.
        alive: Peers of which the deadline has not passed; one that resigned or said goodbye is not among them.
    """
    if not is_confirmed(record, life):
        able = len(set(record.replicas) & set(alive))
        enough = able >= answers_needed(len(set(record.replicas)), min_in_sync(record))
        return "rebuild" if settled and enough else "wait"
    if record.owner in alive:
        return "fine"
    if not is_replicated(record) or not set(record.in_sync) & set(alive):
        return "offline"
    return "fail_over"


def choose_owner(
    in_sync: Collection[str], candidates: Iterable[Candidate], preferred: str = ""
) -> Candidate | None:
    """The in-sync copy with the longest log; among equals the preferred one, then the first by name.

    A copy that lacks what another one knows to be committed has lost something, whatever it says: never chosen.
    """
    candidates = list(candidates)
    committed = max((candidate.committed for candidate in candidates), default=0)
    fit = (c for c in candidates if c.peer in in_sync and c.sound and c.log_end >= committed)
    return min(fit, key=lambda c: (-c.last_epoch, -c.log_end, c.peer != preferred, c.peer), default=None)


def fail_over(
    record: Record, candidates: Iterable[Candidate], *, alive: Collection[str], epoch: int, life: str
) -> Change | None:
    """The record with a new owner in place of a dead one; None: nobody may be it now.

    Args:
        candidates: Those that answered; whoever did not is not waited for.
        epoch: A new one, by `epochs.next_epoch`.
    """
    chosen = choose_owner(record.in_sync, candidates)
    if chosen is None or not is_confirmed(record, life) or epoch <= record.epoch:
        return None
    return _owned_by(record, chosen.peer, staying=alive, epoch=epoch, life=life)


def hand_over(record: Record, successor: str, *, epoch: int, life: str, leaving: bool) -> Change | None:
    """The record after its owner gave the topic to an in-sync copy; None: that one may not have it.

    An owner of which copies have promised a newer epoch than its own hands over to itself, in a newer one still.

    Args:
        leaving: The former owner is about to stop, and is not waited for any more.
    """
    if successor not in record.in_sync or not is_confirmed(record, life) or epoch <= record.epoch:
        return None
    staying = set(record.in_sync) - ({record.owner} if leaving else set())
    return _owned_by(record, successor, staying=staying, epoch=epoch, life=life)


def _owned_by(record: Record, owner: str, *, staying: Collection[str], epoch: int, life: str) -> Change:
    others = (peer for peer in record.in_sync if peer != owner and peer in staying)
    return changed(record, owner=owner, epoch=epoch, in_sync=(owner, *others), life=life, lossy=False)


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What a promotion may lose, as far as anybody who is alive can tell."""

    none: bool
    """The copy has everything committed."""
    kept: int
    """The promoted copy ends here."""
    known: int
    """What is known to have been committed; messages from `kept` to here are lost for sure, later ones perhaps."""


def loss_of(record: Record, chosen: Candidate, candidates: Iterable[Candidate], *, life: str) -> Loss:
    """What is lost if this copy becomes the owner."""
    known = max(candidate.committed for candidate in [chosen, *candidates])
    safe = chosen.peer in record.in_sync and is_confirmed(record, life)
    return Loss(none=safe and chosen.sound and chosen.log_end >= known, kept=chosen.log_end, known=known)


def promote(
    record: Record,
    chosen: Candidate,
    loss: Loss,
    *,
    epoch: int,
    life: str,
    alive: Collection[str],
    accept_loss: bool,
) -> Change | None:
    """The record as an operator wants it; None: something may be lost, and that was not accepted.

    With a loss the promoted copy alone is in sync: others come in again once they have followed it.
    """
    if epoch <= record.epoch:
        return None
    if loss.none:
        return _owned_by(record, chosen.peer, staying=alive, epoch=epoch, life=life)
    if not accept_loss:
        return None
    replicas = tuple(record.replicas)
    if chosen.peer not in replicas:
        replicas = (*replicas, chosen.peer)
    leaving = tuple(peer for peer in record.leaving if peer != chosen.peer)
    return changed(
        record,
        owner=chosen.peer,
        epoch=epoch,
        in_sync=(chosen.peer,),
        replicas=replicas,
        leaving=leaving,
        life=life,
        lossy=True,
    )
