"""The peers as the registry last showed them, so that a lookup need not ask for them each time.

Rules: what is read here was read from the registry at most a sixth of the ttl ago; a peer that an event named
since is read again first. Whether a peer is alive is not remembered but judged by its deadline at each use, so
a peer that dies is seen as dead the moment its deadline passes.

Known limit: each reading fetches all peers, once in a sixth of the ttl while there are lookups or watchers. With
thousands of peers, reading only the deadlines would be cheaper; the registry has no call for that yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from pubsub.core.liveness import AWAY, Standing, is_alive
from pubsub.index.clock import Clock
from pubsub.registry import PeerState, Registry

_SINGLE_READS = 20
"""With more peers in doubt than this, reading all of them is cheaper."""


class PeerTable:
    """All peers that have not said goodbye, by name."""

    def __init__(self, registry: Registry, ttl_seconds: float, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._trusted_seconds = ttl_seconds / 6
        self._states: dict[str, PeerState] = {}
        self._read_at = float("-inf")
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
        self._read_at = float("-inf")

    async def fresh(self) -> Mapping[str, PeerState]:
        """The peers. The mapping changes as time passes: do not keep it over an await.

        Raises:
            RegistryUnavailableError: they cannot be read; nothing older is given instead.
        """
        if self._reading.locked() or not self._is_fresh():  # what is being read is not there yet
            async with self._reading:
                if not self._is_fresh():
                    await self._read()
        return self._states

    def _is_fresh(self) -> bool:
        age_seconds = asyncio.get_running_loop().time() - self._read_at
        return not self._doubted and age_seconds <= self._trusted_seconds

    async def _read(self) -> None:
        began_at = asyncio.get_running_loop().time()
        doubted, self._doubted = self._doubted, set()  # what is doubted from here on may be read too early
        try:
            if began_at - self._read_at > self._trusted_seconds:
                self._read_at = began_at
                self._states = {state.name: state for state in await self._registry.peers(self._clock())}
                return
            for name in doubted:
                state = await self._registry.peer(name, self._clock())
                if state is None:
                    self._states.pop(name, None)
                else:
                    self._states[name] = state
        except BaseException:
            self.doubt_all()
            raise

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
