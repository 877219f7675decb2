"""Answers where topics are, which there are, and which peers: nothing here changes anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from pubsub.config import IndexSettings
from pubsub.errors import PubsubError, TopicNotFoundError
from pubsub.index.clock import Clock
from pubsub.index.coalescing import Coalescer
from pubsub.index.describing import describe_peer, describe_topic
from pubsub.index.peer_links import PeerLinks
from pubsub.index.peer_table import PeerTable
from pubsub.index.settling import Settling
from pubsub.model import TopicInfo, check_pattern, check_topic_name, fixed_prefix, matches, parse_address
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from pubsub.registry import Registry, TopicRecord

HELD_SECONDS = 2.0
"""How long owners may take to tell the offsets of their topics; without them a list is given all the same."""


class Directory:
    """Serves Lookup, Topics and Peers."""

    def __init__(
        self,
        registry: Registry,
        peers: PeerTable,
        settling: Settling,
        links: PeerLinks,
        settings: IndexSettings,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._settling = settling
        self._links = links
        self._page_topics = settings.page_topics
        self._clock = clock
        self.lookups: Coalescer[str, TopicRecord | None] = Coalescer(self._look_up_all)

    async def _look_up_all(self, names: Sequence[str]) -> Sequence[TopicRecord | None]:
        unique = list(dict.fromkeys(names))
        records = await self._registry.lookup(unique)
        if len(unique) == len(names):
            return records
        by_name = dict(zip(unique, records, strict=True))
        return [by_name[name] for name in names]

    async def records(self, names: Sequence[str]) -> list[TopicRecord | None]:
        """The records of many topics; None for those that have none."""
        return list(await self._registry.lookup(names))

    async def record(self, topic: str) -> TopicRecord:
        """The record of a topic.

        Raises:
            TopicNotFoundError: there is none.
            RegistryUnavailableError: it cannot be read, or that it is missing means nothing yet.
        """
        check_topic_name(topic)
        record = await self.lookups.ask(topic)
        if record is None:
            await self._settling.check_absence(topic)
            raise TopicNotFoundError(f"no topic {topic}; create it with: pubsub topic create {topic}")
        return record

    async def find(self, topic: str) -> TopicInfo:
        """A topic with its owner's address; raises what `record` does."""
        record = await self.record(topic)
        await self._peers.fresh()
        return self.describe(record)

    def describe(self, record: TopicRecord) -> TopicInfo:
        """Put a record and the standing of its owner together. Call `PeerTable.fresh` before."""
        return describe_topic(record, self._peers.standing)

    async def lookup(self, connection: ServerConnection, frame: m.Lookup) -> m.TopicList:
        return m.TopicList(frame.id, [await self.find(frame.topic)])

    async def list_peers(self, connection: ServerConnection, frame: m.Peers) -> m.PeerList:
        states = await self._peers.loaded()
        now = self._clock()
        return m.PeerList(frame.id, [describe_peer(states[name], now) for name in sorted(states)])

    async def list_topics(self, connection: ServerConnection, frame: m.Topics) -> m.TopicList:
        """Send all pages but the last one as they are ready and the reader takes them; return the last one."""
        check_pattern(frame.pattern)
        silent: set[str] = set()
        held_back: list[TopicInfo] = []
        async for records in self._pages(frame.pattern):
            if held_back:
                await connection.until_writable()
                connection.send_frame(m.TopicList(frame.id, held_back, more=True))
            await self._peers.fresh()
            held_back = [self.describe(record) for record in records]
            if frame.offsets:
                held_back = await self._with_offsets(held_back, silent)
        return m.TopicList(frame.id, held_back)

    async def _pages(self, pattern: str) -> AsyncIterator[list[TopicRecord]]:
        prefix = fixed_prefix(pattern)
        if prefix == pattern:  # one name
            record = await self.lookups.ask(pattern)
            if record is not None:
                yield [record]
            return
        after = ""
        while True:
            page = await self._registry.topics(prefix, after=after, limit=self._page_topics)
            found = page if pattern == ">" else [record for record in page if matches(pattern, record.name)]
            if found:
                yield found
            if len(page) < self._page_topics:
                return
            after = page[-1].name

    async def _with_offsets(self, topics: Sequence[TopicInfo], silent: set[str]) -> list[TopicInfo]:
        """Add what only the owners know; an owner that does not answer joins `silent` and is not asked again."""
        asked: dict[tuple[str, str], list[str]] = {}
        for topic in topics:
            if topic.address is not None and topic.owner not in silent:
                asked.setdefault((topic.owner, topic.address), []).append(topic.topic)
        answers = await asyncio.gather(
            *(self._held(owner, address, names, silent) for (owner, address), names in asked.items())
        )
        held = {topic_id: info for answer in answers for topic_id, info in answer.items()}
        return [_merged(topic, held.get(topic.id)) for topic in topics]

    async def _held(
        self, owner: str, address: str, names: list[str], silent: set[str]
    ) -> Mapping[int, TopicInfo]:
        try:
            replies = await self._links.request_all(
                owner, parse_address(address), lambda request: m.Held(request, names), HELD_SECONDS
            )
        except PubsubError:
            silent.add(owner)
            return {}
        return {info.id: info for reply in replies if isinstance(reply, m.TopicList) for info in reply.topics}


def _merged(topic: TopicInfo, held: TopicInfo | None) -> TopicInfo:
    if held is None or (held.owner, held.epoch) != (topic.owner, topic.epoch):
        return topic  # it has not taken the topic up yet, and knows of it what a copy knows
    return msgspec.structs.replace(
        topic,
        next_offset=held.next_offset,
        first_offset=held.first_offset,
        read_only=held.read_only,
        scheduled=held.scheduled,
        messages=held.messages,
        bytes=held.bytes,
        policy=held.policy,
    )
