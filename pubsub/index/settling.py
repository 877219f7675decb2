"""Whether the registry knows of every topic yet: docs/decisions/0002-young-registry.md.

Owns which life of the registry this is, and what this index remembers of earlier ones; which peers have announced
in it; and since when whoever lives can have said so, without which nobody may be taken for dead.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from pubsub.core.liveness import Start, settled_at, start_count
from pubsub.errors import RegistryUnavailableError
from pubsub.index.clock import Clock
from pubsub.index.peer_table import PeerTable
from pubsub.registry import Generation, Registry

log = logging.getLogger("pubsub.index")


class Settling:
    """Knows the registry's generation."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        ttl_seconds: float,
        clock: Clock,
        on_new_life: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._ttl_us = round(ttl_seconds * 1_000_000)
        self._look_seconds = min(0.5, ttl_seconds / 6)
        self._clock = clock
        self._on_new_life = on_new_life
        self.generation: Generation | None = None
        """As last seen; None while the registry has not answered yet."""
        self._lived_before = False
        self._looked_at = 0
        self._listening_since = 0
        """Since when heartbeats that came here could be written down, without an interruption."""
        self._announced: dict[str, str] = {}
        """Peer -> the life in which it has announced here."""

    @property
    def life(self) -> str:
        """The id of the present generation; empty while it is not known."""
        return self.generation.id if self.generation is not None else ""

    @property
    def settled(self) -> bool:
        """Whether a full ttl has passed in which every peer that lives could say so: owners may be replaced.

        It begins with the life of the registry, and anew when this index starts, or could not reach the registry.
        """
        return self.settled_in_seconds() <= 0

    def settled_in_seconds(self) -> float:
        """How long that takes yet; 0 or less if it has come, infinite while the registry does not answer."""
        if self.generation is None:
            return math.inf
        since = max(self.generation.created_at, self._listening_since)
        return (since + self._ttl_us - self._clock()) / 1_000_000

    def note_announced(self, peer: str, life: str) -> None:
        """A peer has announced everything that it holds to this index, in this life of the registry."""
        self._announced[peer] = life

    def must_announce(self, peer: str) -> bool:
        """Whether a peer that announced here before has not done so in this life of the registry."""
        return self._announced.get(peer, self.life) != self.life

    async def look(self) -> Generation:
        """Find out which life of the registry this is; an empty registry begins a new one.

        Raises:
            RegistryUnavailableError: nobody can tell.
            SettingsError: the registry belongs to a newer version, or its key is damaged.
        """
        before = self.generation
        began_at = self._clock()
        generation = await self._registry.generation(began_at)
        if not began_at - self._looked_at < self._ttl_us // 2:
            self._listening_since = began_at
        self._looked_at = began_at
        if before is not None and before.id != generation.id and self.generation is before:
            log.warning("the registry has lost its records; peers announce them again")
            self._lived_before = True
            self._peers.doubt_all()
            self._on_new_life()
        self.generation = generation
        return generation

    async def run(self) -> None:
        """Notice when the registry was wiped, even while nobody asks anything; for ever."""
        while True:
            try:
                await self.look()
            except RegistryUnavailableError as error:
                log.debug("%s", error)
            await asyncio.sleep(self._look_seconds)

    async def check_absence(self, topic: str) -> None:
        """Return if the missing record of `topic` means that there is no such topic.

        Raises:
            RegistryUnavailableError: it may still be announced; the message says until when.
        """
        generation = await self.look()
        states = await self._peers.fresh()
        starts = [
            Start(count=start_count(state.record.incarnation), started_at=state.record.started_at)
            for state in states.values()
            if state.record is not None
        ]
        until = settled_at(generation.created_at, self._ttl_us, starts, lived_before=self._lived_before)
        left_seconds = (until - self._clock()) / 1_000_000
        if left_seconds > 0:
            raise RegistryUnavailableError(
                f"the registry came up empty a moment ago, and topic {topic} may still be announced by the peer "
                f"that holds it: whether there is one is known in {left_seconds:.1f} s",
                retry_seconds=left_seconds,
            )
