"""What clients ask of an index, for tests."""

from typing import Any, cast

from pubsub.index import IndexServer
from pubsub.model import PeerInfo, TopicInfo
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.registry import RedisRegistry

REPLY_SECONDS = 10.0


async def ask(link: Link, kind: type, **fields: Any) -> Any:
    """Send a request of this type; returns the last frame of the reply, or raises its error."""
    return await link.request(kind(id=link.next_id(), **fields), REPLY_SECONDS)


async def create(link: Link, topic: str, **fields: Any) -> TopicInfo:
    return cast(TopicInfo, (await ask(link, m.CreateTopic, topic=topic, **fields)).topics[0])


async def delete(link: Link, topic: str) -> str:
    return cast(str, (await ask(link, m.DeleteTopic, topic=topic)).note)


async def lookup(link: Link, topic: str) -> TopicInfo:
    return cast(TopicInfo, (await ask(link, m.Lookup, topic=topic)).topics[0])


async def pages(link: Link, pattern: str = ">", offsets: bool = False) -> list[list[TopicInfo]]:
    replies = await link.request_all(m.Topics(link.next_id(), pattern, offsets), REPLY_SECONDS)
    return [cast(m.TopicList, reply).topics for reply in replies]


async def topics(link: Link, pattern: str = ">", offsets: bool = False) -> dict[str, TopicInfo]:
    return {topic.topic: topic for page in await pages(link, pattern, offsets) for topic in page}


async def peers(link: Link) -> dict[str, PeerInfo]:
    return {peer.peer: peer for peer in (await ask(link, m.Peers)).peers}


def registry_of(index: IndexServer) -> RedisRegistry:
    registry = index._registry
    assert isinstance(registry, RedisRegistry)
    return registry


async def redis(index: IndexServer, *command: str | int) -> Any:
    """Run a command in the Redis, or the embedded one, of an index."""
    (reply,) = await registry_of(index)._run(command)
    return reply
