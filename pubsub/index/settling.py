"""Whether the registry knows of every topic yet: docs/decisions/0002-young-registry.md.

Owns which life of the registry this is, and what this index remembers of earlier ones. Only an *absence* is
doubted here: a record that is there is true from the first moment on.
"""

from __future__ import annotations

import asyncio
import logging
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

    async def look(self) -> Generation:
        """Find out which life of the registry this is; an empty registry begins a new one.

        Raises:
            RegistryUnavailableError: nobody can tell.
            SettingsError: the registry belongs to a newer version, or its key is damaged.
        """
        before = self.generation
        generation = await self._registry.generation(self._clock())
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
