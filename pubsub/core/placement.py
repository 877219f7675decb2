"""Where topics go: the least loaded peers that can take them, one copy on each, in different zones where they name one.

Also in which steps the copies of a topic move, safe at any moment: a replica is taken away only when those that stay
hold everything without it, and never the owner, which hands over first. One step is one change of the record, taken
when the copies know of the one before (`may_change`); after it whoever carried it out, or any other index, looks again.

Decides only; which peers are alive and can be reached is found out by whoever asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from pubsub.core.ownership import Change, Record, changed, config_of, copies_wanted, min_in_sync
from pubsub.core.replication import Config


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that is alive and can be reached."""

    peer: str
    topics: int
    """How many it holds a copy of, with those that are being placed on it just now."""
    messages_per_second: float = 0.0
    """What it says of itself in its heartbeats."""
    zone: str = ""
    """What fails together: a rack, a room. Empty: it names none."""


def choose_peer(
    candidates: Iterable[Candidate], excluded: Collection[str] = (), zones: Collection[str] = ()
) -> str | None:
    """The peer with the fewest topics; among equals the one with the least traffic, then the first by name.

    None when nobody is left besides those `excluded`. One in none of `zones` goes before all others. Does not depend
    on the order of the candidates, so that two indexes which see the same peers choose the same one.
    """
    left = (candidate for candidate in candidates if candidate.peer not in excluded)
    best = min(
        left,
        key=lambda c: (c.zone in zones and c.zone != "", c.topics, c.messages_per_second, c.peer),
        default=None,
    )
    return best.peer if best is not None else None


def choose_replicas(candidates: Iterable[Candidate], copies: int, first: str | None = None) -> list[str]:
    """Peers for the copies of a new topic, the owner first; fewer than `copies` where there are no more.

    Args:
        first: Where the owner shall be; None: the least loaded.
    """
    candidates = list(candidates)
    zone_of = {candidate.peer: candidate.zone for candidate in candidates}
    chosen = [] if first is None else [first]
    while len(chosen) < copies:
        peer = choose_peer(candidates, chosen, {zone_of.get(other, "") for other in chosen})
        if peer is None:
            break
        chosen.append(peer)
    return chosen


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next step towards where the copies of a topic shall be."""

    kind: Literal["add", "remove", "hand_over", "wait"]
    """`add`, `remove`: make the `change`. `hand_over`: ask the owner to hand over to `peer`. `wait`: for `reason`."""
    peer: str = ""
    change: Change | None = None
    reason: str = ""


def next_step(
    record: Record,
    candidates: Iterable[Candidate],
    *,
    life: str,
    gone: Collection[str] = (),
    zones: Mapping[str, str] | None = None,
) -> Step | None:
    """What to do about the copies of a topic; None: they are where they shall be.

    To be asked only about a confirmed record of which the owner is alive.

    Args:
        candidates: Peers that could take a copy: alive, and not being drained.
        life: The present generation of the registry.
        gone: Replicas that have been away for longer than `replace_after`: they are replaced like those that leave.
        zones: Of the peers that hold a copy, where they name one.
    """
    replicas = list(dict.fromkeys(record.replicas))
    wanted = copies_wanted(record)
    leaving = [peer for peer in replicas if peer in record.leaving or peer in gone]
    staying = [peer for peer in replicas if peer not in leaving]
    ready = [peer for peer in staying if peer in record.in_sync]
    if len(staying) < wanted:
        taken = {(zones or {}).get(peer, "") for peer in staying}
        peer = choose_peer(candidates, replicas, taken)
        if peer is not None:
            return Step(kind="add", peer=peer, change=with_added(record, peer, life=life))
        leaving = [peer for peer in leaving if peer in record.leaving]  # better a dead copy than none
    if not leaving:
        return None
    if len(ready) < max(min(wanted, len(staying)), min_in_sync(record), 1):
        asked = [peer for peer in leaving if peer in record.leaving]
        return (
            Step(kind="wait", reason=f"{len(ready)} of the copies that stay are in sync") if asked else None
        )
    if record.owner in leaving:
        successor = min(ready, default=None)
        return Step(kind="hand_over", peer=successor) if successor is not None else None
    peer = leaving[0]
    return Step(kind="remove", peer=peer, change=without(record, peer))


def may_change(record: Record, stored: Mapping[str, Config | None]) -> bool:
    """Whether a step may be taken: each in-sync copy has stored the present set of copies.

    So whoever owns the topic next knows it, or the one that comes after it: sets are left one by one, each by those
    who know it (core/replication). To be asked before each step, and before an operator's change; if it may not, again
    a little later.

    Args:
        stored: What the copies say that they have stored; one that does not answer is not in it.
    """
    present = config_of(record)
    found = [stored.get(peer) for peer in record.in_sync]
    return all(config is not None and config.same_as(present) for config in found)


def without(record: Record, peer: str) -> Change:
    """The record without a replica, which is not the owner."""
    return changed(
        record,
        replicas=tuple(p for p in record.replicas if p != peer),
        in_sync=tuple(p for p in record.in_sync if p != peer),
        leaving=tuple(p for p in record.leaving if p != peer),
    )


def with_added(record: Record, peer: str, *, life: str) -> Change:
    """One more replica; for `--add` the policy's `replicas` grows by one with it, which is the caller's to write."""
    leaving = tuple(p for p in record.leaving if p != peer)
    replicas = tuple(record.replicas) if peer in record.replicas else (*record.replicas, peer)
    return changed(record, replicas=replicas, leaving=leaving, life=life)


def with_leaving(record: Record, peer: str) -> Change:
    """`--remove` and `drain`: this replica shall go. For `--remove` the policy's `replicas` shrinks by one."""
    if peer not in record.replicas or peer in record.leaving:
        return changed(record)
    return changed(record, leaving=(*record.leaving, peer))


def with_moved(record: Record, source: str, target: str, *, life: str) -> Change:
    """`--move`: one replica in place of another."""
    added = with_added(record, target, life=life)
    if source in added.replicas and source not in added.leaving:
        return msgspec.structs.replace(added, leaving=(*added.leaving, source))
    return added
