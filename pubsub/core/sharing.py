"""How many of some messages each member of a group gets."""

from __future__ import annotations

from collections.abc import Sequence


def share(messages: int, rooms: Sequence[int]) -> list[int]:
    """Deal messages to members that have room for so many each, as evenly as the rooms allow.

    Whoever has the most room, that is the least to do, gets one more where they cannot be dealt evenly.
    """
    shares = [0] * len(rooms)
    order = sorted(range(len(rooms)), key=lambda member: rooms[member])
    for place, member in enumerate(order):
        shares[member] = min(max(0, rooms[member]), messages // (len(rooms) - place))
        messages -= shares[member]
    return shares
