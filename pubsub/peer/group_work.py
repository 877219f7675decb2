"""One group at work: gives messages out to its members, takes what they settle, and stores both before it tells.

One commit is under way at a time. What is settled meanwhile, and what can be given out for it, goes into the next
one: settles are coalesced like publishes, and a member gets its next messages with the commit of its last ones. A
message is delivered after the commit that says so, a settle answered after the one that holds it.

When a commit fails, memory is ahead of the file: whoever waits is told to try again, and the group is read anew
from its rows. What was in flight still is, with the members that are still there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from pubsub.config import Limits
from pubsub.core.group import Group
from pubsub.core.group_options import GroupOptions, parse_options
from pubsub.core.group_state import DYING
from pubsub.errors import ClosedError, InvalidRequestError, NotOwnerError, PubsubError, ReadOnlyError
from pubsub.model import GroupInfo, iso_from_us
from pubsub.peer.burying import Burying
from pubsub.peer.group_giving import GivingOut, Seat
from pubsub.peer.group_supply import Supply, offsets_of
from pubsub.peer.lease_clock import LeaseTimer, now_us
from pubsub.protocol.messages import Batch, Deliver, Settle
from pubsub.storage.groups import StoredGroup, change_group, load_group, reset_group
from pubsub.storage.store import Appended, Store
from pubsub.storage.topic import Topic

log = logging.getLogger("pubsub.peer")

Answer = Callable[[PubsubError | None], None]


class GroupWork:
    """See the module's text. Called in the event loop only.

    Args:
        options: As stored in `stored`, but for what the topic demands.
        bury: Makes dead letters of the dying messages at these offsets.
    """

    def __init__(
        self,
        store: Store,
        topic: Topic,
        stored: StoredGroup,
        limits: Limits,
        options: GroupOptions,
        bury: Callable[[GroupWork, list[int]], Awaitable[None]],
    ) -> None:
        self.topic = topic
        self.name = stored.name
        self.options = parse_options(stored.options)
        self.dead = stored.dead
        """Its dead letters."""
        self.seats: dict[str, Seat] = {}
        self.changing = asyncio.Lock()
        """Held by whoever resets, redrives or deletes."""
        self.ended = False
        self._store = store
        self._effective = options
        self.group = Group(options, stored.cursor, stored.rows, first_offset=topic.first_offset)
        self._supply = Supply(store, topic, limits, self.pump)
        self._giving = GivingOut(self._supply, self.options, self._start_waiting)
        self._storing: list[tuple[Seat, Batch]] = []
        """What the commit under way says is given out: to be delivered when it is done."""
        self._answers: list[Answer] = []
        """Who waits for the next commit."""
        self._committing = False
        self._committing_floor: int | None = None
        self._broken: PubsubError | None = None
        """Why memory is not to be trusted, until it has been read anew."""
        self._paused = False
        self._pumping: asyncio.Handle | None = None
        self._timer = LeaseTimer(self._on_due)
        self._tasks: set[asyncio.Task[None]] = set()
        self.burying = Burying(
            f"group {self.name} of {topic.name}", store.settings.probe_seconds, partial(bury, self), self.pump
        )

    # Members

    def join(self, seat: Seat) -> None:
        """A member more; it is given messages from the next `pump` on."""
        self.seats[seat.id] = seat
        self.group.join(seat.id, seat.max_in_flight, seat.window_bytes)

    def leave(self, seat: Seat) -> None:
        """A member is gone: what it has goes to others at once."""
        if self.seats.get(seat.id) is not seat:
            return
        del self.seats[seat.id]
        if seat.waiting is not None:
            seat.waiting.cancel()
        if self._broken is None:
            self._take_back(seat)
            self.group.leave(seat.id)
        if not self.seats:
            self.group.put_back(self._supply.clear())
        self.pump_soon()

    def _take_back(self, seat: Seat) -> None:
        """What a member has been given but not been sent is as if it had not been given."""
        for box in (self._giving.outbox, self._storing):
            for to, batch in box:
                if to is seat:
                    self.group.release(seat.id, offsets_of(batch), batch.attempts or [])
            box[:] = [given for given in box if given[0] is not seat]

    def settle(
        self, seat: Seat, frame: Settle, done: Callable[[list[int], PubsubError | None], None]
    ) -> None:
        """Take what became of deliveries; `done` is called with what is late once it is on disk, or could not be.

        Raises:
            InvalidRequestError: there is no such way of settling.
        """
        if self._broken is not None:
            done([], self._broken)
            return
        group, deliveries = self.group, (frame.offsets, frame.attempts)
        match frame.how:
            case "ack":
                late = group.ack(seat.id, *deliveries)
            case "nack":
                late = group.nack(seat.id, *deliveries, frame.delay_us, now_us())
            case "extend":
                late = group.extend(seat.id, *deliveries, now_us())
            case "release":
                late = group.release(seat.id, *deliveries)
                seat.leaving = True
                self._take_back(seat)
            case _:
                raise InvalidRequestError(
                    f"a message can be settled by ack, nack, extend or release, not {frame.how!r}"
                )
        self._answers.append(lambda error: done(late, error))
        self.pump_soon()

    # Giving out

    def on_append(self, appended: Appended) -> None:
        """A commit added messages to the topic."""
        if not self.seats or self._broken is not None:
            return
        self._supply.add(appended.batch, self.group.cursor)
        self.pump_soon()

    def pump_soon(self) -> None:
        """Do what can be done, together with all that comes in this turn of the loop."""
        if self._pumping is None and not self.ended:
            self._pumping = asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Give out what can be given out, store what has changed, see to what is due and what is dying."""
        if self._pumping is not None:
            self._pumping.cancel()
            self._pumping = None
        if self.ended or self._paused or self._broken is not None:
            return
        if not self._committing:
            self._giving.give(self.group, self.seats.values())
            self._commit()
        self._timer.set(self.group.next_due_us)
        self._bury_dying()

    def _start_waiting(self, seat: Seat) -> asyncio.Task[None]:
        """Give out again when the other end of a member's connection has read what it was sent."""

        async def wait() -> None:
            await seat.connection.until_writable()
            seat.waiting = None
            self.pump()

        return self._start(wait(), "wait for a member of")

    # Storing

    def _commit(self) -> None:
        cursor_before = self.group.cursor_stored
        changes = self.group.changes()
        answers, self._answers = self._answers, []
        self._storing = self._giving.take()
        if changes is None:
            for answer in answers:
                answer(None)
            return
        self._committing = True
        self._committing_floor = min([cursor_before, *(first for first, _ in changes.gone)])
        group = self.group

        def done(error: PubsubError | None) -> None:
            self._committing = False
            self._committing_floor = None
            self._committed(group, answers, error)

        self._store.change(change_group(self.topic.id, self.name, changes), done)

    def _committed(self, group: Group, answers: list[Answer], error: PubsubError | None) -> None:
        outbox, self._storing = self._storing, []
        for answer in answers:
            answer(error)
        if group is not self.group or self.ended:
            return
        if error is not None:
            self._break(error)
            return
        for seat, batch in outbox:
            seat.connection.send_frame(Deliver(seat.number, batch))
        self.pump()

    def _break(self, error: PubsubError) -> None:
        """A commit failed: trust the rows, not memory."""
        if isinstance(error, ClosedError):
            self.end()
            return
        self._broken = error if error.retriable else ReadOnlyError(f"nothing was changed: {error}")
        answers, self._answers = self._answers, []
        for answer in answers:
            answer(self._broken)
        self._giving.outbox.clear()
        self._storing.clear()
        self._supply.clear()
        self._start(self._read_anew(), "read anew")

    async def _read_anew(self) -> None:
        stored: StoredGroup | None = None
        while True:
            await asyncio.sleep(self._store.settings.probe_seconds)
            try:
                stored = await self._store.look(load_group, self.topic.id, self.name)
                break
            except ClosedError:
                return
            except PubsubError as error:
                log.warning("group %s of %s cannot be read: %s", self.name, self.topic.name, error)
        if self.ended or stored is None:
            return
        self.dead = stored.dead
        self.group = Group(
            self._effective, stored.cursor, stored.rows, self.seats, first_offset=self.topic.first_offset
        )
        for seat in self.seats.values():
            self.group.join(seat.id, seat.max_in_flight, seat.window_bytes)
        self.group.renew(now_us())
        self._broken = None
        self.pump()

    def _start(self, work: Any, what: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(
            work, name=f"pubsub: {what} group {self.name} of {self.topic.name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # What is due, and what is given up

    def _on_due(self) -> None:
        if self._broken is None and not self._paused:
            self.group.expire(now_us())
            self.pump()

    def _bury_dying(self) -> None:
        if not self._committing and not self.changing.locked():
            self.burying.begin(self.group)

    def why_dying(self, offset: int) -> tuple[str, int] | None:
        """Why a message is given up, and after how many attempts; None: it is not any more, retention has taken it."""
        entry = self.group.entries.get(offset)
        return None if entry is None or entry.state != DYING else (entry.member, entry.attempts)

    # Changing as a whole

    async def reset(self, position: int) -> None:
        """Go on at `position`, as if nothing had been given out from there on; the caller holds `changing`.

        Raises:
            PubsubError: it could not be stored; nothing has changed.
        """
        await self.stop()
        try:
            given_up = [
                row for row in self.group.given_up() if row.offset < position
            ]  # the others come anyway
            await self._store.run(reset_group(self.topic.id, self.name, position, given_up))
        except Exception:
            self.go_on()
            raise
        self.group = Group(self._effective, position, given_up, first_offset=self.topic.first_offset)
        self._giving.outbox.clear()
        self._storing.clear()
        self._supply.clear()
        self._paused = False

    async def stop(self) -> None:
        """Give out and store nothing until `go_on`, and wait for what is on its way to the dead letters.

        Raises:
            ReadOnlyError: nothing can be changed now.
            NotOwnerError: the group is not served here any more.
        """
        self.check_sound()
        self._paused = True
        await self.until_buried()

    async def until_buried(self) -> None:
        """Wait for what is on its way to the dead letters.

        Raises:
            NotOwnerError: the group is not served here any more.
        """
        await self.burying.finished()
        if self.ended:
            raise NotOwnerError(
                f"topic {self.topic.name} is not served here any more; ask for its owner again"
            )

    def go_on(self) -> None:
        """What `stop` stopped."""
        self._paused = False
        self.pump()

    def check_sound(self) -> None:
        """Raises ReadOnlyError where nothing can be changed now."""
        if self._broken is not None:
            raise self._broken

    def end_members(self, error: PubsubError) -> list[Seat]:
        """Tell every member that it is one no more."""
        seats, self.seats = list(self.seats.values()), {}
        for seat in seats:
            seat.end(error)
            if seat.waiting is not None:
                seat.waiting.cancel()
        return seats

    def end(self) -> None:
        """Do nothing any more. Idempotent."""
        self.ended = True
        self._supply.clear()
        self._timer.end()
        self.burying.end()
        if self._pumping is not None:
            self._pumping.cancel()
        for task in self._tasks:
            task.cancel()

    # Retention

    def keep_from(self, first_offset: int) -> None:
        """Retention took what lies before."""
        if self._broken is None:
            if self.group.cursor < first_offset:
                self.group.put_back(self._supply.clear())
            self.group.keep_from(first_offset)
            self.pump_soon()

    def floor(self) -> int:
        """Everything before it is done, and that is on disk. While that is unknown, 0."""
        if self._broken is not None:
            return 0
        floor = self.group.floor()
        return floor if self._committing_floor is None else min(floor, self._committing_floor)

    # What people see

    async def info(self) -> GroupInfo:
        """The group in figures."""
        topic, counts, dead = self.topic, self.group.counts(), self.dead
        start = max(self.group.cursor, topic.first_offset)
        if topic.messages == topic.committed - topic.first_offset:
            behind = topic.committed - start
        else:  # compaction has left holes: only a look at each tells
            behind = await self._store.count_from(topic, start)
        ready = counts.ready + behind
        return GroupInfo(
            topic=topic.name,
            group=self.name,
            ready=ready,
            in_flight=counts.in_flight,
            delayed=counts.delayed,
            dead=dead + counts.dying,
            lag=ready + counts.in_flight + counts.delayed,
            members=[self._member_info(seat) for seat in self.seats.values()],
            options=msgspec.to_builtins(self.options),
        )

    def _member_info(self, seat: Seat) -> dict[str, Any]:
        member = self.group.members.get(seat.id)
        return {
            "name": seat.name,
            "address": seat.connection.remote,
            "in_flight": len(member.offsets) if member is not None else 0,
            "since": iso_from_us(seat.since_us),
        }
