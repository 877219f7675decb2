"""The members of the groups of this peer's topics: which subscription of which connection has a seat in which group.

A member is one subscription of one connection, and ends with it, or with its group.
"""

from __future__ import annotations

from pubsub.errors import PubsubError
from pubsub.net.server import ServerConnection
from pubsub.peer.group_giving import Seat
from pubsub.peer.group_work import GroupWork


class Members:
    """See the module's text; called in the event loop only."""

    def __init__(self) -> None:
        self._seats: dict[ServerConnection, dict[int, tuple[GroupWork, Seat]]] = {}

    def seat(self, work: GroupWork, seat: Seat) -> None:
        """A subscription is a member of a group from now on, until it leaves or its connection is lost."""
        seats = self._seats.get(seat.connection)
        if seats is None:
            seats = self._seats[seat.connection] = {}
            seat.connection.when_lost(lambda: self._lost(seat.connection))
        seats[seat.number] = (work, seat)
        work.join(seat)

    def _lost(self, connection: ServerConnection) -> None:
        for work, seat in self._seats.pop(connection, {}).values():
            work.leave(seat)

    def leave(self, connection: ServerConnection, number: int) -> None:
        """A subscription ends; one that is no member is fine. What it has goes to others at once."""
        work, seat = self._seats.get(connection, {}).pop(number, (None, None))
        if work is not None and seat is not None:
            work.leave(seat)

    def unseat(self, work: GroupWork, error: PubsubError) -> None:
        """The members of a group are members no more, and are told why."""
        for seat in work.end_members(error):
            self._seats.get(seat.connection, {}).pop(seat.number, None)

    def find(self, connection: ServerConnection, number: int) -> tuple[GroupWork, Seat] | None:
        """The group that this subscription of a connection is a member of, and its seat there."""
        return self._seats.get(connection, {}).get(number)

    def has(self, connection: ServerConnection, number: int) -> bool:
        """Whether this subscription of a connection is a member of a group."""
        return self.find(connection, number) is not None

    def count(self, connection: ServerConnection | None = None) -> int:
        """How many members there are, on one connection or in all."""
        if connection is not None:
            return len(self._seats.get(connection, ()))
        return sum(map(len, self._seats.values()))

    def by_topic(self) -> dict[str, dict[str, int]]:
        """Topic -> group and name of a member -> since when, for the registry."""
        found: dict[str, dict[str, int]] = {}
        for seats in self._seats.values():
            for work, seat in seats.values():
                found.setdefault(work.topic.name, {})[f"{work.name}: {seat.id}"] = seat.since_us
        return found
