"""How an index is: what `pubsub index status` shows."""

from __future__ import annotations

import time
from typing import Any

from pubsub.errors import PubsubError
from pubsub.index.peer_table import PeerTable
from pubsub.index.settling import Settling
from pubsub.net.server import Server, ServerConnection
from pubsub.protocol import messages as m
from pubsub.registry import Registry
from pubsub.version import __version__


class Reporting:
    """Serves Status."""

    def __init__(
        self, registry: Registry, peers: PeerTable, settling: Settling, server: Server, ttl_seconds: float
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._settling = settling
        self._server = server
        self._ttl_seconds = ttl_seconds
        self._began_at = time.monotonic()

    async def status(self, connection: ServerConnection, frame: m.Status) -> m.StatusReport:
        """Answers also without the registry, and says then what is wrong with it."""
        fields: dict[str, Any] = {
            "role": "index",
            "version": __version__,
            "address": str(self._server.address),
            "registry": self._registry.where,
            "registry_ok": True,
            "registry_error": None,
            "generation": None,
            "ttl_seconds": self._ttl_seconds,
            "peers": None,
            "peers_alive": None,
            "topics": None,
            "uptime_seconds": round(time.monotonic() - self._began_at, 3),
            "connections": len(self._server.connections),
        }
        try:
            generation = await self._settling.look()
            states = await self._peers.fresh()
            fields |= {
                "generation": generation.id,
                "peers": len(states),
                "peers_alive": sum(s.alive for s in self._peers.standings().values()),
                "topics": await self._registry.count_topics(),
            }
        except PubsubError as error:
            fields |= {"registry_ok": False, "registry_error": error.message}
        return m.StatusReport(frame.id, fields)
