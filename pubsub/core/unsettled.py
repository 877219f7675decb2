"""The unsettled messages of a group, and the states that each of them goes through.

Of the messages of a topic, those from `cursor` on have not been given out. Each below it has an entry, or is done:
acknowledged, moved to the dead letters, or taken away by retention. An entry is in one of four states:

    ready       to be given out        <- a member left or gave it back; a delay is over; blocked by its key
    in_flight   one member has it      -> acknowledged (no entry); or failed: ready, delayed or dying
    delayed     failed, waits          -> ready, when due
    dying       failed for good        -> a dead letter (no entry)

In an ordered group the entries of one key form a lane. Only the first of a lane may be given out, and only
while none of it is in flight; what comes behind waits as a ready entry.

What members ask for, and may, is decided in `core.group`. No change looks at more entries than it changes; leases and
delays lie in a heap, settled ones are thrown out of it when they are the most of it. What has changed is told by
`changes`, to be stored before anybody is told of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

from pubsub.core.credit import Window
from pubsub.core.group_options import GroupOptions
from pubsub.core.group_state import (
    DELAYED,
    DYING,
    IN_FLIGHT,
    READY,
    Changes,
    Counts,
    Entry,
    Row,
    runs_of,
)
from pubsub.core.lanes import Lanes
from pubsub.core.timers import Timers


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


class Unsettled:
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

    # What comes next

    @property
    def has_ready(self) -> bool:
        """Whether there is something to `pick`."""
        heap = self._ready
        while heap and not self._may_be_picked(heap[0]):
            heapq.heappop(heap)
        return bool(heap)

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

    # Time

    @property
    def next_due_us(self) -> int | None:
        """When `expire` may have something to do next."""
        return self._timers.next_us

    def _due_us(self, offset: int) -> int | None:
        entry = self.entries.get(offset)
        return entry.due_us if entry is not None else None

    def _schedule(self, due_us: int, offsets: Collection[int]) -> None:
        self._timers.add(due_us, offsets, self._counts[IN_FLIGHT] + self._counts[DELAYED])

    def _given_lease(self, offsets: Collection[int], due_us: int) -> None:
        self._dirty.update(offsets)
        self._schedule(due_us, offsets)

    # Changes of state

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

    def given_up(self) -> list[Row]:
        """What is to become dead letters, as it is stored."""
        found = [(offset, self.entries[offset]) for offset in self.dying(len(self._dying))]
        return [Row(offset, DYING, entry.attempts, 0, entry.member, entry.key) for offset, entry in found]

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

    def pass_to(self, offset: int) -> None:
        """There are no messages between the cursor and `offset`."""
        self.cursor = max(self.cursor, offset)

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
