"""The verb of `Client` that compares the copies of a topic."""

from __future__ import annotations

import asyncio

from pubsub.client.asking_peers import PeersVerbs
from pubsub.client.comparing import Copy, common_bounds, compare
from pubsub.client.stream import REQUEST_SECONDS
from pubsub.errors import PubsubError, RemoteProtocolError
from pubsub.model import Address, CopyRange, TopicInfo
from pubsub.protocol import messages as m

RANGE = 1000
"""Ranges end at multiples of it."""


class VerifyVerbs(PeersVerbs):
    """Mixed into `Client`."""

    async def topic(self, topic: str) -> TopicInfo:
        """See `TopicVerbs`."""
        raise NotImplementedError

    async def verify(self, topic: str) -> list[CopyRange]:
        """Read all copies of a topic, check what is stored against its checksums, and compare the copies.

        Every peer that holds one reads all of it. Returns each range of offsets of each copy, in order; a copy that is
        away, damaged or not in sync has an entry with its `problem`. All is well if all of them are `sound`.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        self._check_owner_verb(topic)
        info = await self.topic(topic)
        peers = sorted({*info.replicas, info.owner})
        addresses = await self._peer_addresses(set(peers))
        copies = dict(
            zip(
                peers, await asyncio.gather(*(self._head(info, addresses.get(p)) for p in peers)), strict=True
            )
        )
        start, stop = common_bounds(copies, info.owner)
        for peer, copy in copies.items():
            if copy.told is not None and not copy.problem and len(peers) > 1 and peer not in info.in_sync:
                copy.problem = f"it is not in sync, and goes up to offset {copy.told.next_offset}"
        await asyncio.gather(
            *(
                self._read(info, addresses[peer], copy, start, stop)
                for peer, copy in copies.items()
                if copy.told is not None
            )
        )
        return compare(topic, info.owner, copies)

    async def _head(self, info: TopicInfo, address: Address | None) -> Copy:
        """How far a copy goes."""
        if address is None:
            return Copy(problem="its peer is away")
        try:
            told = await self._verified(info, address, 0, 0)
        except PubsubError as error:
            return Copy(problem=error.message)
        problem = "" if told.sound or told.damage else "it has lost something, and is filled again"
        return Copy(told=told, damage=dict(told.damage), problem=problem)

    async def _read(self, info: TopicInfo, address: Address, copy: Copy, start: int, stop: int) -> None:
        """All ranges of a copy."""
        assert copy.told is not None
        if copy.told.next_offset < stop:  # its last range would be another one than the others'
            stop = copy.told.next_offset - copy.told.next_offset % RANGE
        while start < stop:
            try:
                part = await self._verified(info, address, start, stop)
            except PubsubError as error:
                copy.problem = error.message
                return
            copy.damage |= dict(part.damage)
            copy.ranges = [*copy.ranges, *part.ranges]
            if not part.ranges:
                return
            start = part.ranges[-1][1]

    async def _verified(self, info: TopicInfo, address: Address, start: int, stop: int) -> m.Verified:
        link = await self._pool.get(address)
        reply = await link.request(
            m.Verify(id=link.next_id(), topic=info.topic, topic_id=info.id, start=start, stop=stop),
            REQUEST_SECONDS,
        )
        if not isinstance(reply, m.Verified):
            raise RemoteProtocolError(f"unexpected reply to Verify: {type(reply).__name__}")
        return reply
