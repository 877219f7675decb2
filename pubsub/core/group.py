"""A group as a state machine: which messages are whose, which come next, which are given up.

Of the messages of a topic, those from `cursor` on have not been given out. Each below it has an entry, or is done:
acknowledged, moved to the dead letters, or taken away by retention. An entry is in one of four states:

    ready       to be given out        <- a member left or gave it back; a delay is over; blocked by its key
    in_flight   one member has it      -> acknowledged (no entry); or failed: ready, delayed or dying
    delayed     failed, waits          -> ready, when due
    dying       failed for good        -> a dead letter (no entry)

A delivery is named by offset and attempt, and belongs to a member; whatever comes in for another delivery than the
present one is late and changes nothing. Attempts are counted when a message is given out.

In an ordered group the entries of one key form a lane. Only the first of a lane may be given out, and only
while none of it is in flight; what comes behind waits as a ready entry, at most `LOOK_AHEAD` of them.

Neither taking nor settling nor expiring looks at more entries than it changes; leases and delays lie in a heap,
settled ones are thrown out of it when they are the most of it. Time comes in as microseconds. What has changed
is told by `changes`, to be stored before anybody is told of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence

from pubsub.core.credit import Window
from pubsub.core.group_options import GroupOptions
from pubsub.core.group_state import (
    DELAYED,
    DYING,
    EXPIRED,
    IN_FLIGHT,
    LOST,
    NACKED,
    READY,
    Changes,
    Counts,
    Entry,
    Row,
    runs_of,
)
from pubsub.core.lanes import Lanes
from pubsub.core.timers import Timers

MOST_ENTRIES = 100_000
"""Unsettled messages of one group, in memory; with so many it is given nothing new."""
LOOK_AHEAD = 50_000
"""Messages blocked by their key beyond which an ordered group looks for others. Each is an entry and a row from then
on. A bound there must be; half of all leaves as many for keys that are not blocked."""
MOST_EXPIRED = 10_000
"""Expired deliveries that are remembered of a member: as many as it can have at once."""


class Member:
    """What one member may have, and has."""

    __slots__ = ("expired", "offsets", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.offsets: set[int] = set()
        """In flight at this member."""
        self.expired: dict[int, int] = {}
        """Offset -> attempt of the last delivery whose lease ran out here. The member may still settle it, so that the
        message may not be given to it under such an attempt again, though a redriven one is counted anew."""


class Group:
    """See the module's text.

    Args:
        rows: As stored. What is in flight at somebody who is not among `members` becomes ready: that member's
            connection is gone.
        first_offset: The first message that is kept.
    """

    def __init__(
        self,
        options: GroupOptions,
        cursor: int,
        rows: Iterable[Row] = (),
        members: Collection[str] = (),
        first_offset: int = 0,
    ) -> None:
        self.options = options
        self.cursor = max(cursor, first_offset)
        self.first_offset = first_offset
        self.entries: dict[int, Entry] = {}
        self.members: dict[str, Member] = {}
        self._lease_us = options.lease_us
        self._counts = {READY: 0, IN_FLIGHT: 0, DELAYED: 0, DYING: 0}
        self._ready: list[int] = []
        """A heap of what may be given out; what is not so any more is skipped when it comes up."""
        self._picked: set[int] = set()
        """Ready, and out of the heap, because somebody fetches them."""
        self._timers = Timers(self._due_us)
        self._lanes = Lanes()
        self._dying: dict[int, None] = {}
        self._dirty: set[int] = set()
        self.cursor_stored = cursor
        self._load(rows, members)

    def _load(self, rows: Iterable[Row], members: Collection[str]) -> None:
        for name in members:
            self.members[name] = Member(Window(0, 0))
        for row in sorted(rows, key=lambda row: row.offset):
            entry = Entry(row.state, row.attempts, row.due_us, row.member, row.key, 0)
            if row.offset < self.first_offset and (row.state != IN_FLIGHT or row.member not in self.members):
                self._dirty.add(row.offset)
                continue
            if row.state == IN_FLIGHT and row.member not in self.members:
                entry.state, entry.due_us, entry.member = READY, 0, ""
                self._dirty.add(row.offset)
            self._add(row.offset, entry)

    def _add(self, offset: int, entry: Entry) -> None:
        """A new entry, in whatever state."""
        if not self.options.ordered:
            entry.key = None
        self.entries[offset] = entry
        self._counts[entry.state] += 1
        if entry.state == DYING:
            self._dying[offset] = None
            return
        if entry.key is not None:
            self._lanes.add(entry.key, offset)
            if entry.state == IN_FLIGHT:
                self._lanes.begin(entry.key, offset)
        if entry.state == IN_FLIGHT:
            self.members[entry.member].offsets.add(offset)
        if entry.due_us:
            self._schedule(entry.due_us, (offset,))
        if entry.state == READY:
            self._offer(offset, entry)

    # Members

    def join(self, member: str, max_in_flight: int, window_bytes: int) -> Member:
        """A member that may have so much in flight; whatever it has already counts."""
        window = Window(max_in_flight, window_bytes)
        offsets = self.members[member].offsets if member in self.members else set()
        for offset in offsets:
            window.spend(1, self.entries[offset].size_bytes)
        joined = self.members[member] = Member(window)
        joined.offsets = offsets
        return joined

    def leave(self, member: str) -> None:
        """A member is gone: what it has is ready at once, or dying if that was its last attempt."""
        left = self.members.get(member)
        if left is None:
            return
        for offset in sorted(left.offsets):
            self._fail(offset, self.entries[offset], LOST, 0)
        del self.members[member]

    # Giving out

    @property
    def has_ready(self) -> bool:
        """Whether there is something to `pick`."""
        heap = self._ready
        while heap and not self._may_be_picked(heap[0]):
            heapq.heappop(heap)
        return bool(heap)

    def pick(self, most: int) -> list[int]:
        """The next ready offsets, for their messages to be fetched; then `retake` or `put_back` them."""
        picked: list[int] = []
        while len(picked) < most and self.has_ready:
            offset = heapq.heappop(self._ready)
            self._picked.add(offset)
            picked.append(offset)
        return picked

    def put_back(self, offsets: Iterable[int]) -> None:
        """These were picked and not taken."""
        for offset in offsets:
            if offset in self._picked:
                self._picked.discard(offset)
                self._offer(offset, self.entries[offset])

    def _may_be_picked(self, offset: int) -> bool:
        entry = self.entries.get(offset)
        return (
            entry is not None
            and entry.state == READY
            and offset not in self._picked
            and self._is_free(offset, entry)
        )

    def _is_free(self, offset: int, entry: Entry) -> bool:
        """Whether no other message of its key stands before it, or is in flight."""
        return entry.key is None or self._lanes.free(entry.key) == offset

    def _offer(self, offset: int, entry: Entry) -> None:
        if offset not in self._picked and self._is_free(offset, entry):
            heapq.heappush(self._ready, offset)

    def retake(
        self, member: str, offsets: Sequence[int], sizes: Sequence[int], now_us: int
    ) -> tuple[list[int], list[int]]:
        """Give out picked messages, as far as the member has room and they are still to be given out.

        Returns:
            The positions of those given, and their attempts; what was not given must be put back.
        """
        window, due_us = self.members[member].window, now_us + self._lease_us
        expired = self.members[member].expired
        positions: list[int] = []
        for position, (offset, size_bytes) in enumerate(zip(offsets, sizes, strict=True)):
            entry = self.entries.get(offset)
            if entry is None or offset not in self._picked or not self._is_free(offset, entry):
                continue
            if window.messages <= 0 or (size_bytes > window.bytes and not window.idle):
                break
            self._picked.discard(offset)
            self._counts[READY] -= 1
            entry.attempts = max(entry.attempts, expired.get(offset, 0)) + 1
            self._give(offset, entry, member, size_bytes, due_us)
            positions.append(position)
        given = [offsets[position] for position in positions]
        self._schedule(due_us, given)
        return positions, [self.entries[offset].attempts for offset in given]

    def take(
        self,
        member: str,
        offsets: Sequence[int],
        keys: Sequence[str | None] | None,
        sizes: Sequence[int],
        most: int,
        now_us: int,
    ) -> tuple[list[int], int]:
        """Give out new messages, the next ones from the cursor on, as far as the member has room: at most `most`.

        Returns:
            The positions of those given, each for the first time, and how many the cursor has passed. An ordered
            group passes also those that are blocked by their key, and keeps them for later.
        """
        window, due_us = self.members[member].window, now_us + self._lease_us
        most = min(most, MOST_ENTRIES - len(self.entries))
        if not self.options.ordered or keys is None:
            count = max(0, min(most, window.fitting(sizes[: max(0, most)])))
            for offset, size_bytes in zip(offsets[:count], sizes[:count], strict=True):
                self.entries[offset] = Entry(IN_FLIGHT, 1, due_us, member, None, size_bytes)
            self.members[member].offsets.update(offsets[:count])
            self._given_lease(offsets[:count], due_us)
            window.spend(count, sum(sizes[:count]))
            self._counts[IN_FLIGHT] += count
            if count:
                self.cursor = offsets[count - 1] + 1
            return list(range(count)), count
        return self._take_in_order(member, offsets, keys, sizes, most, due_us)

    def _take_in_order(
        self,
        member: str,
        offsets: Sequence[int],
        keys: Sequence[str | None],
        sizes: Sequence[int],
        most: int,
        due_us: int,
    ) -> tuple[list[int], int]:
        window = self.members[member].window
        positions: list[int] = []
        passed = 0
        for offset, key, size_bytes in zip(offsets, keys, sizes, strict=True):
            if len(positions) >= most or len(self.entries) >= MOST_ENTRIES:
                break
            if key is not None and key in self._lanes:
                if self._counts[READY] >= LOOK_AHEAD:
                    break
                self._add(offset, Entry(READY, 0, 0, "", key, 0))
                self._dirty.add(offset)
            elif window.messages <= 0 or (size_bytes > window.bytes and not window.idle):
                break
            else:
                entry = self.entries[offset] = Entry(READY, 1, 0, "", key, 0)
                if key is not None:
                    self._lanes.add(key, offset)
                self._give(offset, entry, member, size_bytes, due_us)
                positions.append(passed)
            passed += 1
            self.cursor = offset + 1
        self._schedule(due_us, [offsets[position] for position in positions])
        return positions, passed

    def _give(self, offset: int, entry: Entry, member: str, size_bytes: int, due_us: int) -> None:
        """Put an entry in flight; the caller schedules it and has counted its attempt."""
        entry.state, entry.member, entry.size_bytes, entry.due_us = IN_FLIGHT, member, size_bytes, due_us
        self._counts[IN_FLIGHT] += 1
        if entry.key is not None:
            self._lanes.begin(entry.key, offset)
        holder = self.members[member]
        holder.window.spend(1, size_bytes)
        holder.offsets.add(offset)
        self._dirty.add(offset)

    def _given_lease(self, offsets: Collection[int], due_us: int) -> None:
        self._dirty.update(offsets)
        self._schedule(due_us, offsets)

    def pass_to(self, offset: int) -> None:
        """There are no messages between the cursor and `offset`."""
        self.cursor = max(self.cursor, offset)

    # Settling

    def _present(self, member: str, offset: int, attempt: int) -> Entry | None:
        """The entry of a delivery, if it is the present one of its message and this member's."""
        entry = self.entries.get(offset)
        if entry is None or entry.state != IN_FLIGHT or entry.attempts != attempt or entry.member != member:
            return None
        return entry

    def ack(self, member: str, offsets: Sequence[int], attempts: Sequence[int]) -> list[int]:
        """These are done. Returns the offsets that are late."""
        late: list[int] = []
        for offset, attempt in zip(offsets, attempts, strict=True):
            entry = self._present(member, offset, attempt)
            if entry is None:
                late.append(offset)
            else:
                self._remove(offset, entry)
        return late

    def nack(
        self, member: str, offsets: Sequence[int], attempts: Sequence[int], delay_us: int, now_us: int
    ) -> list[int]:
        """These failed; they wait for `delay_us`, -1 for the backoff of the group. Returns what is late."""
        late: list[int] = []
        for offset, attempt in zip(offsets, attempts, strict=True):
            entry = self._present(member, offset, attempt)
            if entry is None:
                late.append(offset)
            else:
                wait_us = self.options.backoff_us(entry.attempts) if delay_us < 0 else delay_us
                self._fail(offset, entry, NACKED, now_us + wait_us if wait_us else 0)
        return late

    def extend(self, member: str, offsets: Sequence[int], attempts: Sequence[int], now_us: int) -> list[int]:
        """The leases of these begin anew. Returns what is late."""
        due_us = now_us + self._lease_us
        late: list[int] = []
        extended: list[int] = []
        for offset, attempt in zip(offsets, attempts, strict=True):
            entry = self._present(member, offset, attempt)
            if entry is None:
                late.append(offset)
            else:
                entry.due_us = due_us
                extended.append(offset)
        self._given_lease(extended, due_us)
        return late

    def release(self, member: str, offsets: Sequence[int], attempts: Sequence[int]) -> list[int]:
        """These were not begun: as if this member had not been given them. Returns what is late."""
        late: list[int] = []
        for offset, attempt in zip(offsets, attempts, strict=True):
            entry = self._present(member, offset, attempt)
            if entry is None:
                late.append(offset)
                continue
            entry.attempts -= 1
            self._to_ready(offset, entry)
        return late

    # Time

    def renew(self, now_us: int) -> None:
        """Every lease begins anew: its member could not ask for it."""
        due_us = now_us + self._lease_us
        for member in self.members.values():
            for offset in member.offsets:
                self.entries[offset].due_us = due_us
            self._given_lease(member.offsets, due_us)

    @property
    def next_due_us(self) -> int | None:
        """When `expire` may have something to do next."""
        return self._timers.next_us

    def expire(self, now_us: int) -> None:
        """Leases and delays that end now have ended."""
        for offset in self._timers.due(now_us):
            entry = self.entries[offset]
            if entry.state == DELAYED:
                self._to_ready(offset, entry)
            else:
                self._note_expired(self.members[entry.member].expired, offset, entry.attempts)
                wait_us = self.options.backoff_us(entry.attempts)
                self._fail(offset, entry, EXPIRED, now_us + wait_us if wait_us else 0)

    def _due_us(self, offset: int) -> int | None:
        entry = self.entries.get(offset)
        return entry.due_us if entry is not None else None

    def _note_expired(self, expired: dict[int, int], offset: int, attempt: int) -> None:
        expired[offset] = max(attempt, expired.pop(offset, 0))
        if len(expired) > MOST_EXPIRED:
            del expired[next(iter(expired))]

    def _schedule(self, due_us: int, offsets: Collection[int]) -> None:
        self._timers.add(due_us, offsets, self._counts[IN_FLIGHT] + self._counts[DELAYED])

    # Changes of state

    def _fail(self, offset: int, entry: Entry, why: str, ready_at_us: int) -> None:
        """An attempt came to nothing."""
        if offset < self.first_offset:  # retention took the message while it was in flight
            self._remove(offset, entry)
        elif entry.attempts >= self.options.max_attempts:
            self._let_go(offset, entry)
            entry.state, entry.member, entry.due_us = DYING, why, 0
            self._counts[DYING] += 1
            self._dying[offset] = None
            self._dirty.add(offset)
            self._leave_lane(offset, entry)
        elif ready_at_us:
            self._let_go(offset, entry)
            entry.state, entry.member, entry.due_us = DELAYED, "", ready_at_us
            self._counts[DELAYED] += 1
            self._dirty.add(offset)
            self._schedule(ready_at_us, (offset,))
        else:
            self._to_ready(offset, entry)

    def _to_ready(self, offset: int, entry: Entry) -> None:
        if offset < self.first_offset:
            self._remove(offset, entry)
            return
        self._let_go(offset, entry)
        entry.state, entry.member, entry.due_us = READY, "", 0
        self._counts[READY] += 1
        self._dirty.add(offset)
        self._offer(offset, entry)

    def _let_go(self, offset: int, entry: Entry) -> None:
        """Take an entry out of the state that it is in."""
        self._counts[entry.state] -= 1
        if entry.state == IN_FLIGHT:
            holder = self.members[entry.member]
            holder.offsets.discard(offset)
            holder.window.grant(1, entry.size_bytes)
            if entry.key is not None:
                self._lanes.end(entry.key)
                self._unblock(entry.key)  # an earlier one that was redriven meanwhile

    def _remove(self, offset: int, entry: Entry) -> None:
        """It is done, whatever state it was in."""
        self._let_go(offset, entry)
        del self.entries[offset]
        self._dirty.add(offset)
        self._picked.discard(offset)
        self._dying.pop(offset, None)
        self._leave_lane(offset, entry)

    def _leave_lane(self, offset: int, entry: Entry) -> None:
        if entry.key is not None:
            self._lanes.remove(entry.key, offset)
            self._unblock(entry.key)

    def _unblock(self, key: str) -> None:
        """Something of a key is not in flight any more, or is done: the first of its lane may come next."""
        first = self._lanes.free(key)
        if first is not None and self.entries[first].state == READY:
            self._offer(first, self.entries[first])

    # Giving up, and taking back

    def dying(self, most: int) -> list[int]:
        """Offsets that are to become dead letters, of which that is stored already."""
        found: list[int] = []
        for offset in self._dying:
            if offset not in self._dirty:
                found.append(offset)
                if len(found) >= most:
                    break
        return found

    def spare(self) -> int:
        """What is dying is ready once more, as if it had never been given out. Returns how many it were."""
        spared = list(self._dying)
        for offset in spared:
            entry = self.entries[offset]
            self._counts[DYING] -= 1
            del self.entries[offset], self._dying[offset]
            self._add(offset, Entry(READY, 0, 0, "", entry.key, 0))
            self._dirty.add(offset)
        return len(spared)

    def buried(self, offsets: Iterable[int]) -> None:
        """These are dead letters now; their rows went in the same transaction."""
        for offset in offsets:
            entry = self.entries.get(offset)
            if entry is not None and entry.state == DYING:
                self._remove(offset, entry)
                self._dirty.discard(offset)

    def restore(self, offset: int, key: str | None) -> None:
        """A dead letter is ready again, as if it had never been given out; its row is stored already."""
        if offset >= self.cursor or offset in self.entries:
            return
        if offset < self.first_offset:
            self._dirty.add(offset)  # the message has gone meanwhile: so must the row
        else:
            self._add(offset, Entry(READY, 0, 0, "", key, 0))

    def vanished(self, offsets: Iterable[int]) -> None:
        """The messages at these offsets are not there any more: retention or compaction took them."""
        for offset in offsets:
            entry = self.entries.get(offset)
            if entry is not None and entry.state != IN_FLIGHT:
                self._remove(offset, entry)

    def keep_from(self, first_offset: int) -> None:
        """Retention took what lies before. What is in flight of it stays with its member until it is settled."""
        if first_offset <= self.first_offset:
            return
        self.first_offset = first_offset
        self.cursor = max(self.cursor, first_offset)
        self.vanished([offset for offset in self.entries if offset < first_offset])

    # What others want to know

    def counts(self) -> Counts:
        """The entries by state. What lies from the cursor on is ready besides."""
        return Counts(*(self._counts[state] for state in (READY, IN_FLIGHT, DELAYED, DYING)))

    def floor(self) -> int:
        """Everything before it is done, and `changes` has told so."""
        return min(
            min(self.entries, default=self.cursor), min(self._dirty, default=self.cursor), self.cursor_stored
        )

    def next_ready(self, most: int) -> list[int]:
        """The first ready entries; nothing is changed."""
        ready = (offset for offset, entry in self.entries.items() if entry.state == READY)
        return heapq.nsmallest(most, ready)

    def changes(self) -> Changes | None:
        """What is to be stored since the last call, or None."""
        if not self._dirty and self.cursor == self.cursor_stored:
            return None
        offsets = sorted(self._dirty)
        self._dirty.clear()
        self.cursor_stored = self.cursor
        return Changes(self.cursor, *runs_of(offsets, self.entries))
