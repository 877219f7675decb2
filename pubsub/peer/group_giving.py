"""Giving a group's messages out: which member gets which, by the room that each has.

What has been given out before comes first; what is new is shared evenly. Nothing is delivered here: what is given out
lies in the outbox until it has been stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from pubsub.core.group import Group
from pubsub.core.group_options import GroupOptions
from pubsub.core.sharing import share
from pubsub.errors import PubsubError
from pubsub.net.server import ServerConnection
from pubsub.peer.group_supply import AGAIN_MESSAGES, Piece, Supply, offsets_of, portion
from pubsub.peer.lease_clock import now_us
from pubsub.protocol.batch import message_sizes
from pubsub.protocol.messages import Batch, Ended


class Seat:
    """A member, and the subscription of the connection that it is."""

    def __init__(
        self, connection: ServerConnection, number: int, name: str, max_in_flight: int, window_bytes: int
    ) -> None:
        self.connection = connection
        self.number = number
        self.name = name
        self.max_in_flight = max_in_flight
        self.window_bytes = window_bytes
        self.id = f"{name} {connection.remote}/{number}".lstrip()
        """What stands in the rows of messages that it has in flight; no other connection has the same."""
        self.since_us = time.time_ns() // 1000
        self.leaving = False
        """It has given back what it had not begun, and is given nothing more."""
        self.waiting: asyncio.Task[None] | None = None
        """While the other end does not read: until it does."""

    def end(self, error: PubsubError) -> None:
        """Tell the member that the group, or its part in it, is over."""
        self.connection.send_frame(Ended(self.number, error.code, error.message, error.data))


class GivingOut:
    """See the module's text.

    Args:
        wait_for: Starts a task that gives out again once a member's connection can be written to.
    """

    def __init__(
        self, supply: Supply, options: GroupOptions, wait_for: Callable[[Seat], asyncio.Task[None]]
    ) -> None:
        self._supply = supply
        self._ordered = options.ordered
        self._wait_for = wait_for
        self.outbox: list[tuple[Seat, Batch]] = []
        """What has been given out and not been taken."""

    def give(self, group: Group, members: Collection[Seat]) -> None:
        """Give out what there is, as far as the members' windows and connections have room."""
        seats = [seat for seat in members if self._may_have(seat)]
        self._give_again(group, seats)
        self._give_new(group, seats)
        if members:
            if self._supply.head() is None:
                group.pass_to(self._supply.empty_to)
            self._supply.read_ahead(group.cursor, sum(seat.max_in_flight for seat in members))

    def take(self) -> list[tuple[Seat, Batch]]:
        """What has been given out since this was called last."""
        taken, self.outbox = self.outbox, []
        return taken

    def _may_have(self, seat: Seat) -> bool:
        if seat.leaving:
            return False
        if seat.connection.writable:
            return seat.connection.open
        if seat.waiting is None:
            seat.waiting = self._wait_for(seat)
        return False

    def _give_again(self, group: Group, seats: list[Seat]) -> None:
        """Give out what has been given out before, and have more of it fetched for the room that is left."""
        supply = self._supply
        if supply.missing or supply.unread:
            group.put_back([*supply.missing, *supply.unread])
            group.vanished(supply.missing)
            supply.missing, supply.unread = [], []
        batch, supply.again = supply.again, None
        if batch is not None:
            offsets, sizes = list(offsets_of(batch)), message_sizes(batch)
            at = 0
            for seat, count in zip(seats, share(len(offsets), _rooms(group, seats)), strict=True):
                stop = at + count
                given, attempts = group.retake(seat.id, offsets[at:stop], sizes[at:stop], now_us())
                if given:
                    self.outbox.append((seat, portion(batch, [at + n for n in given], attempts)))
                at = stop
            group.put_back(offsets)
        wanted = min(sum(_rooms(group, seats)), AGAIN_MESSAGES)
        if wanted and not supply.fetching and group.has_ready:
            supply.fetch(group.pick(wanted))

    def _give_new(self, group: Group, seats: list[Seat]) -> None:
        """Give out what is new, but for the room of what is being fetched: that comes first."""
        supply = self._supply
        most = sum(_rooms(group, seats)) - supply.asked_for
        while most > 0 and (piece := supply.head()) is not None:
            left = piece.left
            for seat, count in zip(seats, share(min(left, most), _rooms(group, seats)), strict=True):
                if count:
                    most -= self._give_piece(group, seat, piece, count)
            if piece.left == left:
                break

    def _give_piece(self, group: Group, seat: Seat, piece: Piece, count: int) -> int:
        """Give a member up to `count` of the next messages; returns how many it got."""
        at, keys = piece.at, piece.batch.keys
        stop = None if self._ordered else at + count
        given, passed = group.take(
            seat.id,
            piece.offsets[at:stop],
            keys[at:stop] if keys is not None and self._ordered else None,
            piece.sizes[at:stop],
            count,
            now_us(),
        )
        if given:
            self.outbox.append((seat, portion(piece.batch, [at + n for n in given], [1] * len(given))))
        self._supply.passed(piece, passed)
        return len(given)


def _rooms(group: Group, seats: list[Seat]) -> list[int]:
    """How many messages each may be given."""
    windows = (group.members[seat.id].window for seat in seats)
    return [max(0, window.messages) if window.bytes > 0 or window.idle else 0 for window in windows]
