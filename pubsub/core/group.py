"""A group as a state machine: which messages are whose, which come next, which are given up.

The states of a message are described, and changed, in `core.unsettled`; here is what members do: come and go, take
messages and settle them, let leases run out.

A delivery is named by offset and attempt, and belongs to a member; whatever comes in for another delivery than the
present one is late and changes nothing. Attempts are counted when a message is given out. Neither taking nor settling
nor expiring looks at more messages than it changes. Time comes in as microseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from pubsub.core.credit import Window
from pubsub.core.group_state import DELAYED, EXPIRED, IN_FLIGHT, LOST, NACKED, READY, Entry
from pubsub.core.unsettled import Member, Unsettled

MOST_ENTRIES = 100_000
"""Unsettled messages of one group, in memory; with so many it is given nothing new."""
LOOK_AHEAD = 50_000
"""Messages blocked by their key beyond which an ordered group looks for others. Each is an entry and a row from then
on. A bound there must be; half of all leaves as many for keys that are not blocked."""
MOST_EXPIRED = 10_000
"""Expired deliveries that are remembered of a member: as many as it can have at once."""


class Group(Unsettled):
    """The group of a topic: see the module's text. Made as `Unsettled` is."""

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

    def _note_expired(self, expired: dict[int, int], offset: int, attempt: int) -> None:
        expired[offset] = max(attempt, expired.pop(offset, 0))
        if len(expired) > MOST_EXPIRED:
            del expired[next(iter(expired))]
