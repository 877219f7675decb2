"""How many of some messages each member of a group gets."""

from __future__ import annotations

from collections.abc import Sequence


def share(messages: int, rooms: Sequence[int]) -> list[int]:
    """Deal messages to members that have room for so many each, as evenly as the rooms allow.

    Whoever has the most room, that is the least to do, comes first where they cannot be dealt evenly.
    """
    shares = [0] * len(rooms)
    order = sorted(range(len(rooms)), key=lambda member: -rooms[member])
    open_members = [member for member in order if rooms[member] > 0]
    while messages > 0 and open_members:
        each, rest = divmod(messages, len(open_members))
        for place, member in enumerate(open_members):
            given = min(rooms[member] - shares[member], each + (place < rest))
            shares[member] += given
            messages -= given
        open_members = [member for member in open_members if shares[member] < rooms[member]]
    return shares
