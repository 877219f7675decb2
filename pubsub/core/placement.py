"""Where a new topic goes: the least loaded peer that can take it.

Decides only; which peers are alive and can be reached is found out by whoever asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that is alive and can be reached."""

    peer: str
    topics: int
    """How many it holds a copy of, with those that are being placed on it just now."""
    messages_per_second: float = 0.0
    """What it says of itself in its heartbeats."""


def choose_peer(candidates: Iterable[Candidate], excluded: Collection[str] = ()) -> str | None:
    """The peer with the fewest topics; among equals the one with the least traffic, then the first by name.

    None when nobody is left besides those `excluded`. Does not depend on the order of the candidates, so that
    two indexes which see the same peers choose the same one.
    """
    left = (candidate for candidate in candidates if candidate.peer not in excluded)
    best = min(left, key=lambda c: (c.topics, c.messages_per_second, c.peer), default=None)
    return best.peer if best is not None else None
