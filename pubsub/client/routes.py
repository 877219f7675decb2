"""Where each topic is served: looked up once, remembered until it proves wrong."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pubsub.client.directory import Directory
from pubsub.errors import PubsubError, TopicOfflineError
from pubsub.model import Address, TopicInfo, check_topic_name, parse_address
from pubsub.net.link import Link
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Which topic has a name now, and where its owner is."""

    topic: str
    topic_id: int
    epoch: int
    owner: str
    address: Address
    replicated: bool = False
    """Others have copies, and one of them may own it by now, whether or not this owner is heard of."""


class Routes:
    """Finds the link on which a topic is published and read. With `relay` that is always the index's."""

    def __init__(self, directory: Directory, pool: LinkPool, relay: bool) -> None:
        self.relay = relay
        self._directory = directory
        self._pool = pool
        self._known: dict[str, Route] = {}

    async def find(self, topic: str, timeout_seconds: float) -> Route:
        """The route to a topic.

        Raises:
            TopicNotFoundError: there is none of this name.
            TopicOfflineError: its owner is away.
            IndexUnavailableError, RegistryUnavailableError: nobody can be asked.
        """
        route = self._known.get(topic)
        if route is None:
            route = self._known[topic] = self.route(await self.look_up(topic, timeout_seconds))
        return route

    def route(self, info: TopicInfo) -> Route:
        """The route to a topic of which an index has told.

        Raises:
            TopicOfflineError: its owner is away.
        """
        if not info.online or info.address is None:
            raise TopicOfflineError(
                f"topic {info.topic} is offline: its owner {info.owner} is away", owner=info.owner
            )
        return Route(
            topic=info.topic,
            topic_id=info.id,
            epoch=info.epoch,
            owner=info.owner,
            address=parse_address(info.address),
            replicated=len(info.replicas) > 1,
        )

    async def moved(self, route: Route, timeout_seconds: float) -> bool:
        """Whether an index says that another peer owns the topic by now. Of what nobody says: no."""
        try:
            info = await self.look_up(route.topic, timeout_seconds)
        except PubsubError:
            return False
        return info.id == route.topic_id and info.epoch > route.epoch and info.owner != route.owner

    async def look_up(self, topic: str, timeout_seconds: float) -> TopicInfo:
        """Ask an index about a topic, whatever is remembered."""
        check_topic_name(topic)
        replies = await self._directory.request(lambda request: m.Lookup(request, topic), timeout_seconds)
        return topics_in(replies)[0]

    async def link(self, route: Route) -> Link:
        """The link on which to talk about the topic of a route."""
        return await (self._directory.link() if self.relay else self._pool.get(route.address))

    def forget(self, topic: str) -> None:
        """The route proved wrong: look it up again next time."""
        self._known.pop(topic, None)


def topics_in(replies: Sequence[m.Frame]) -> list[TopicInfo]:
    """The topics in the frames of one reply."""
    return [topic for reply in replies if isinstance(reply, m.TopicList) for topic in reply.topics]
