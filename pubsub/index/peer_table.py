"""The peers as the registry last showed them, so that a lookup need not ask for them each time.

Rules: whether a peer is alive is not remembered but judged by its deadline at each use, so one that dies is seen as
dead the moment its deadline passes. A deadline is read again before it passes; that of a dead peer once in a ttl,
for its record is gone too: it must register to live, and that is an event. A peer that an event named is read whole
before it is used again. What changes without an event, how busy a peer is, is at most a sixth of the ttl old where
`loaded` asks for it.

So a lookup reads the deadlines of few peers, however many there are; only who wants to know of all their load waits for
all records, which come in pages, so that others are served between them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Mapping

import msgspec

from pubsub.core.liveness import AWAY, Standing, is_alive
from pubsub.index.clock import Clock
from pubsub.registry import PeerState, Registry

_SINGLE_READS = 20
"""With more peers in doubt than this, reading all of them is cheaper."""
_PAGE = 100
"""Records read at once: the event loop is held up for about a millisecond."""
_DEADLINES_PAGE = 1000


_NEVER = -1


class PeerTable:
    """All peers that have not said goodbye, by name."""

    def __init__(self, registry: Registry, ttl_seconds: float, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._ttl_us = round(ttl_seconds * 1_000_000)
        self._trusted_us = self._ttl_us // 6
        self._states: dict[str, PeerState] = {}
        self._look_at: list[tuple[int, str]] = []
        """A heap: when to read the deadline of which peer again. One that is not known any more is passed over."""
        self._loaded_at = _NEVER
        """When the records began to be read, all of them; _NEVER if anything may have changed since."""
        self._doubted: set[str] = set()
        self._reading = asyncio.Lock()

    def doubt(self, names: Iterable[str]) -> None:
        """Something changed about these: read them before they are used again."""
        self._doubted.update(names)
        if len(self._doubted) > _SINGLE_READS:
            self.doubt_all()

    def doubt_all(self) -> None:
        """Anything may have changed: read all before any is used again."""
        self._doubted.clear()
        self._loaded_at = _NEVER

    async def fresh(self) -> Mapping[str, PeerState]:
        """The peers, with their standing of now; load figures and counts may be old.

        The mapping changes as time passes: do not keep it over an await.

        Raises:
            RegistryUnavailableError: they cannot be read; nothing older is given instead.
        """
        if self._reading.locked() or not self._is_fresh():  # what is being read is not there yet
            async with self._reading:
                if not self._is_fresh():
                    await self._read()
        return self._states

    async def loaded(self) -> Mapping[str, PeerState]:
        """Like `fresh`, with load figures and counts that are at most a sixth of the ttl old."""
        async with self._reading:
            if self._clock() - self._loaded_at > self._trusted_us:
                self.doubt_all()
            if not self._is_fresh():
                await self._read()
        return self._states

    def _is_fresh(self) -> bool:
        due = bool(self._look_at) and self._look_at[0][0] <= self._clock()
        return not self._doubted and not due and self._loaded_at != _NEVER

    async def _read(self) -> None:
        doubted, self._doubted = self._doubted, set()  # what is doubted from here on may be read too early
        try:
            if self._loaded_at == _NEVER:
                await self._read_all()
                return
            for name in doubted:
                self._note(name, await self._registry.peer(name, self._clock()))
            await self._read_deadlines()
        except BaseException:
            self.doubt_all()
            raise

    async def _read_all(self) -> None:
        began_at = self._loaded_at = self._clock()
        names = sorted(await self._registry.deadlines())
        found: list[PeerState] = []
        for first in range(0, len(names), _PAGE):
            found += await self._registry.peers(self._clock(), names[first : first + _PAGE])
        self._states = {state.name: state for state in found}
        self._look_at = [(self._look_again_at(state, began_at), state.name) for state in found]
        heapq.heapify(self._look_at)

    async def _read_deadlines(self) -> None:
        now = self._clock()
        due: list[str] = []
        while self._look_at and self._look_at[0][0] <= now:
            due.append(heapq.heappop(self._look_at)[1])
        names = list(dict.fromkeys(name for name in due if name in self._states))
        for first in range(0, len(names), _DEADLINES_PAGE):
            page = names[first : first + _DEADLINES_PAGE]
            deadlines = await self._registry.deadlines(page)
            for name in page:
                state = self._states.get(name)
                if state is not None and name in deadlines:
                    state = msgspec.structs.replace(state, deadline_at=deadlines[name])
                self._note(name, state if name in deadlines else None)

    def _note(self, name: str, state: PeerState | None) -> None:
        if state is None:
            self._states.pop(name, None)
            return
        self._states[name] = state
        heapq.heappush(self._look_at, (self._look_again_at(state, self._clock()), name))

    def _look_again_at(self, state: PeerState, now: int) -> int:
        if not is_alive(state.deadline_at, now):
            return now + self._ttl_us
        return max(state.deadline_at - self._trusted_us, now + self._trusted_us)

    def count_topic(self, name: str) -> None:
        """A topic has been placed on a peer: count it before the registry's count is read again."""
        state = self._states.get(name)
        if state is not None:
            self._states[name] = msgspec.structs.replace(state, topics=state.topics + 1)

    def standing(self, name: str) -> Standing:
        """What others need to know of a peer now, judged on what was last read."""
        return standing_of(self._states.get(name), self._clock())

    def standings(self) -> dict[str, Standing]:
        """`standing` of every peer."""
        now = self._clock()
        return {name: standing_of(state, now) for name, state in self._states.items()}


def standing_of(state: PeerState | None, now: int) -> Standing:
    """What others need to know of a peer."""
    if state is None or state.record is None or not is_alive(state.deadline_at, now):
        return AWAY
    return Standing(alive=True, address=state.record.address, incarnation=state.record.incarnation)
