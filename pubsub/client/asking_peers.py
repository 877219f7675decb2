"""Asking peers, whatever topics they own: for lists of what many of them keep."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from pubsub.client.asking import OwnerVerbs
from pubsub.client.directory import Directory
from pubsub.client.stream import REQUEST_SECONDS
from pubsub.errors import PubsubError
from pubsub.model import Address, parse_address
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.client")

PEERS_AT_ONCE = 32


class PeersVerbs(OwnerVerbs):
    """Base of the verbs of `Client` that ask several peers."""

    _directory: Directory
    _pool: LinkPool

    async def _peer_addresses(self, peers: set[str] | None = None) -> dict[str, Address]:
        """Where the peers are that are alive; or those of them that are asked for."""
        reply = (await self._directory.request(m.Peers, REQUEST_SECONDS))[-1]
        known = reply.peers if isinstance(reply, m.PeerList) else []
        return {
            info.peer: parse_address(info.address)
            for info in known
            if info.alive and info.address and (peers is None or info.peer in peers)
        }

    async def _ask_peers(
        self, addresses: Mapping[str, Address], make: Callable[[int], m.Request], what: str
    ) -> list[m.Frame]:
        """What all of these peers answer; one that does not is left out, with a warning.

        Args:
            what: What is then missing, for the warning.
        """
        turns = asyncio.Semaphore(PEERS_AT_ONCE)

        async def ask(peer: str, address: Address) -> list[m.Frame]:
            async with turns:
                try:
                    return await self._ask_peer(address, make)
                except PubsubError as error:
                    log.warning("peer %s does not answer, %s are not listed: %s", peer, what, error)
                    return []

        found = await asyncio.gather(*(ask(*item) for item in addresses.items()))
        return [reply for replies in found for reply in replies]

    async def _ask_peer(self, address: Address, make: Callable[[int], m.Request]) -> list[m.Frame]:
        link = await self._pool.get(address)
        return await link.request_all(
            make(link.next_id()), min(REQUEST_SECONDS, self._settings.timeout_seconds)
        )
