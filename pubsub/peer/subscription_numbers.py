"""The numbers of a connection's subscriptions: readers, members of groups and followers. Each is one's at a time.

A number is taken from the moment that its subscription is asked for, though the answer may need the disk first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pubsub.errors import InvalidRequestError
from pubsub.net.server import ServerConnection
from pubsub.peer.deliveries import Deliveries
from pubsub.peer.group_members import Members


class SubscriptionNumbers:
    """See the module's text; called in the event loop only.

    Args:
        most: Readers and members that one connection may have.
    """

    def __init__(self, deliveries: Deliveries, members: Members, most: int) -> None:
        self._deliveries = deliveries
        self._members = members
        self._most = most
        self._beginning: dict[ServerConnection, dict[int, object]] = {}
        """Numbers that are taken by who only begins -> which beginning: a number that is given up may be taken anew."""

    def check(self, connection: ServerConnection, number: int) -> None:
        """Raises InvalidRequestError if a new subscription cannot have this number."""
        if not 0 <= number < 2**32:
            raise InvalidRequestError("a subscription is numbered from 0 to 2^32 - 1")
        if (
            self._deliveries.find(connection, number) is not None
            or self._members.has(connection, number)
            or number in self._beginning.get(connection, ())
        ):
            raise InvalidRequestError(f"this connection has a subscription {number} already")

    @contextmanager
    def beginning(self, connection: ServerConnection, number: int) -> Iterator[Callable[[], None]]:
        """Keep a number for a reader or a member until the block is left.

        Yields:
            What raises InvalidRequestError if the subscription has been ended meanwhile; from its call on until the
            subscription is there, nothing may be awaited.

        Raises:
            InvalidRequestError: the number cannot be had, or the connection has as many subscriptions as it may have.
        """
        self.check(connection, number)
        others = self._beginning.get(connection, {})
        if self._deliveries.count(connection) + self._members.count(connection) + len(others) >= self._most:
            raise InvalidRequestError(f"at most {self._most} subscriptions on one connection")
        this = object()

        def is_wanted() -> bool:
            return self._beginning.get(connection, {}).get(number) is this

        def check_wanted() -> None:
            if not is_wanted():
                raise InvalidRequestError(f"subscription {number} was ended before it began")

        self._beginning.setdefault(connection, {})[number] = this
        try:
            yield check_wanted
        finally:
            if is_wanted():
                self._forget(connection, number)

    def end(self, connection: ServerConnection, number: int) -> None:
        """End what has this number, or is about to begin. None is fine."""
        self._forget(connection, number)
        self._deliveries.stop(connection, number)
        self._members.leave(connection, number)

    def _forget(self, connection: ServerConnection, number: int) -> None:
        numbers = self._beginning.get(connection)
        if numbers is not None:
            numbers.pop(number, None)
            if not numbers:
                del self._beginning[connection]
