"""Asks peers how far their copies go: one request to each peer for many topics.

Who does not answer in time is left out; whoever chooses an owner goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from pubsub.errors import PubsubError
from pubsub.index.peer_links import PeerLinks
from pubsub.index.peer_table import PeerTable
from pubsub.model import parse_address
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.index")

IDS_IN_A_FRAME = 1000


class Ends:
    """How far copies go: (peer, topic id) -> CopyEnd."""

    def __init__(self, peers: PeerTable, links: PeerLinks, ttl_seconds: float) -> None:
        self._peers = peers
        self._links = links
        self._answer_seconds = min(1.0, ttl_seconds / 3)
        self._promise_seconds = max(1.0, ttl_seconds / 3)

    async def ask(self, asked: Mapping[str, Iterable[int]]) -> dict[tuple[str, int], m.CopyEnd]:
        """How far the copies of these topics go, by peer.

        Raises:
            RegistryUnavailableError: it is not known where the peers are.
        """
        return await self._ask(asked, 0, self._answer_seconds)

    async def promise(
        self, asked: Mapping[str, Iterable[int]], epoch: int
    ) -> dict[tuple[str, int], m.CopyEnd]:
        """The same, and they promise this epoch: `core/rebuild`."""
        return await self._ask(asked, epoch, self._promise_seconds)

    async def _ask(
        self, asked: Mapping[str, Iterable[int]], promise: int, seconds: float
    ) -> dict[tuple[str, int], m.CopyEnd]:
        await self._peers.fresh()
        found: dict[tuple[str, int], m.CopyEnd] = {}
        requests = []
        for peer, topic_ids in asked.items():
            address = self._peers.standing(peer).address
            ids = list(topic_ids)
            if address is not None:
                requests += [
                    self._ask_one(peer, address, ids[first : first + IDS_IN_A_FRAME], promise, seconds, found)
                    for first in range(0, len(ids), IDS_IN_A_FRAME)
                ]
        await asyncio.gather(*requests)
        return found

    async def _ask_one(
        self,
        peer: str,
        address: str,
        topic_ids: list[int],
        promise: int,
        seconds: float,
        found: dict[tuple[str, int], m.CopyEnd],
    ) -> None:
        try:
            replies = await self._links.request_all(
                peer, parse_address(address), lambda request: m.CopyEnds(request, topic_ids, promise), seconds
            )
        except PubsubError as error:
            log.info("peer %s does not say how far its copies go: %s", peer, error)
            return
        for reply in replies:
            if isinstance(reply, m.CopyEndList):
                found.update({(peer, end.topic_id): end for end in reply.ends})
