"""Comparing the copies of a topic by the digests of their ranges: which one is not as the others are.

Pure. What most copies have is taken for right; among as many, what the owner has. A copy that says itself that a range
is damaged has no vote. Compaction takes messages away at each copy in its own time: of a range in which it may have,
and of which the numbers of messages differ, nobody can tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from pubsub.model import CopyRange
from pubsub.protocol.messages import Verified


class Copy(msgspec.Struct, kw_only=True):
    """What one peer said of its copy."""

    told: Verified | None = None
    """How far it goes; None: it was not heard of."""
    ranges: list[tuple[int, int, int, int]] = []
    damage: dict[int, str] = {}
    """Offset -> what is wrong from there on."""
    problem: str = ""


def common_bounds(copies: Mapping[str, Copy], owner: str) -> tuple[int, int]:
    """From where to where the copies are to be the same: what is kept, and committed as far as is known."""
    told = {peer: copy.told for peer, copy in copies.items() if copy.told is not None}
    start = max((one.first_offset for one in told.values()), default=0)
    stop = max((one.committed for one in told.values()), default=0)
    return start, told[owner].committed if owner in told else stop


def compare(topic: str, owner: str, copies: Mapping[str, Copy]) -> list[CopyRange]:
    """All ranges of all copies, in order; a copy with a problem of its own has one more entry."""
    ranges: dict[tuple[int, int], dict[str, tuple[int, int]]] = {}
    for peer, copy in copies.items():
        for start, stop, messages, digest in copy.ranges:
            ranges.setdefault((start, stop), {})[peer] = (messages, digest)
    found = [_problem(topic, peer, copy) for peer, copy in copies.items() if copy.problem or not copy.ranges]
    for (start, stop), entries in sorted(ranges.items()):
        right = _right(entries, owner)
        for peer, (messages, digest) in sorted(entries.items()):
            copy = copies[peer]
            wrong = [why for offset, why in copy.damage.items() if start <= offset < stop]
            found.append(
                CopyRange(
                    topic=topic,
                    peer=peer,
                    role=None if copy.told is None else copy.told.role,
                    start=start,
                    stop=stop,
                    messages=None if digest < 0 else messages,
                    digest=None if digest < 0 else f"{digest:08x}",
                    equal=_equal((messages, digest), right, entries, copies, damaged=bool(wrong)),
                    problem="; ".join(wrong) or ("" if digest >= 0 else "it is damaged"),
                )
            )
    return found


def _problem(topic: str, peer: str, copy: Copy) -> CopyRange:
    told = copy.told
    wrong = "; ".join(filter(None, [copy.problem, *copy.damage.values()]))
    if told is None:
        return CopyRange(topic=topic, peer=peer, problem=wrong)
    return CopyRange(
        topic=topic, peer=peer, role=told.role, start=told.first_offset, stop=told.committed, problem=wrong
    )


def _right(entries: Mapping[str, tuple[int, int]], owner: str) -> tuple[int, int] | None:
    votes = Counter(entry for entry in entries.values() if entry[1] >= 0)
    if not votes:
        return None
    most = max(votes.values())
    best = [entry for entry, count in votes.items() if count == most]
    return entries[owner] if entries.get(owner) in best else best[0]


def _equal(
    entry: tuple[int, int],
    right: tuple[int, int] | None,
    entries: Mapping[str, tuple[int, int]],
    copies: Mapping[str, Copy],
    *,
    damaged: bool,
) -> bool | None:
    if damaged or entry[1] < 0:
        return False
    if right is None or len(entries) < 2:
        return None
    if entry != right and entry[0] != right[0] and any(c.told and c.told.compacted for c in copies.values()):
        return None
    return entry == right
