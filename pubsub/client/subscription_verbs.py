"""The verbs of `Client` that are about durable subscriptions: where they are, moving them, forgetting them.

A peer keeps the cursors of its own subscriptions itself, and the owner of the topic notes how far they are: such a
subscription is called NAME@PEER, and both are asked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from pubsub.client.asking import Counted
from pubsub.client.asking_peers import PeersVerbs
from pubsub.client.subscription import Start, start_fields
from pubsub.errors import (
    PeerUnavailableError,
    PubsubError,
    SubscriptionNotFoundError,
    TopicOfflineError,
)
from pubsub.model import Address, CursorInfo, check_subscription_name
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.client")


class SubscriptionVerbs(PeersVerbs):
    """Mixed into `Client`. Each of them may raise what finding and asking a topic's owner may: `Client.query`."""

    async def subscriptions(self, topic: str | None = None) -> list[CursorInfo]:
        """The durable subscriptions of a topic, or of all topics, by topic and name.

        Those of all topics are as many as can be learnt: of every peer that is alive and answers.
        """
        self._check_owner_verb(topic if topic is not None else "any")
        if topic is None:
            return merged(await self._cursors_of("", await self._peer_addresses()))
        try:
            await self._routes.find(topic, self._settings.timeout_seconds)
        except TopicOfflineError:  # what peers keep themselves is known all the same
            return merged(await self._cursors_of(topic, await self._peer_addresses()))
        reply = await self._ask_owner(topic, lambda request, _: m.Cursors(request, topic), m.CursorList)
        found = list(reply.cursors)
        peers = {peer for info in found if (peer := _kept_by(info.subscription))}
        if peers:  # of a subscription of its own a peer knows best
            try:
                found += await self._cursors_of(topic, await self._peer_addresses(peers))
            except PubsubError as error:
                log.warning("where %s are now is not known: %s", ", ".join(sorted(peers)), error)
        return merged(found)

    async def subscription(self, topic: str, name: str) -> CursorInfo:
        """One durable subscription: its position, and how many messages it is behind.

        Raises:
            SubscriptionNotFoundError: the topic has none of this name.
        """
        self._check_owner_verb(topic)
        name = self._full_name(topic, name)
        for info in await self.subscriptions(topic):
            if info.subscription == name:
                return info
        raise _not_found(topic, name)

    async def reset_subscription(self, topic: str, name: str, to: Start) -> str:
        """Move a durable subscription to "earliest", "latest", an offset, or a time. Returns a note for people.

        Whoever reads by it is ended with SubscriptionTakenError, and goes on from there by subscribing again.

        Raises:
            SubscriptionNotFoundError: the topic has none of this name.
            OffsetOutOfRangeError: the offset lies outside the log.
        """
        start, at_us = start_fields(to)
        self._check_owner_verb(topic)
        name = self._full_name(topic, name)
        peer = _kept_by(name)
        if not peer:
            return await self._change_cursor(topic, name, "reset", start, at_us)
        position = await self._find_offset(topic, start, at_us)
        # First where it is kept: what the owner noted must not run ahead of it.
        address = (await self._peer_addresses({peer})).get(peer)
        if address is None:
            raise PeerUnavailableError(f"peer {peer}, which keeps subscription {name}, is away", peer=peer)
        own = name.partition("@")[0]
        await self._ask_peer(
            address,
            lambda request: m.ChangeCursor(id=request, topic=topic, name=own, how="reset", start=position),
        )
        try:
            return await self._change_cursor(topic, name, "reset", position, 0)
        except SubscriptionNotFoundError:
            return ""  # the owner had noted nothing yet

    async def delete_subscription(self, topic: str, name: str) -> str:
        """Forget a durable subscription. Returns a note for people, empty when there is nothing to say.

        Whoever reads by it is ended with SubscriptionNotFoundError. Messages are kept for it no longer.

        Raises:
            SubscriptionNotFoundError: the topic has none of this name.
        """
        self._check_owner_verb(topic)
        name = self._full_name(topic, name)
        peer = _kept_by(name)
        if not peer:
            return await self._change_cursor(topic, name, "delete", 0, 0)
        own, note, gone = name.partition("@")[0], "", 0
        address = (await self._peer_addresses({peer})).get(peer)
        if address is None:
            note = f"peer {peer} is away: when it is back, and reads by it again, the subscription is there again"
        else:
            try:
                await self._ask_peer(
                    address, lambda request: m.ChangeCursor(id=request, topic=topic, name=own, how="delete")
                )
            except SubscriptionNotFoundError:
                gone += 1
        try:
            await self._change_cursor(topic, name, "delete", 0, 0)
        except SubscriptionNotFoundError:
            gone += 1
        if gone == 2 or (gone and address is None):
            raise _not_found(topic, name)
        return note

    def _full_name(self, topic: str, name: str) -> str:
        """The name under which a durable subscription is listed.

        Raises:
            InvalidNameError: it is none.
        """
        return check_subscription_name(name)

    async def _change_cursor(self, topic: str, name: str, how: str, start: int, at_us: int) -> str:
        make = Counted(
            lambda request, _: m.ChangeCursor(
                id=request, topic=topic, name=name, how=how, start=start, at_us=at_us
            )
        )
        try:
            return (await self._ask_owner(topic, make, m.Done)).note
        except SubscriptionNotFoundError:
            if how == "delete" and make.repeated:
                return "it is gone: a request before this one, which got no answer, deleted it"
            raise _not_found(topic, name) from None

    async def _find_offset(self, topic: str, start: int, at_us: int) -> int:
        """The offset that a start means now, as the owner says."""
        reply = await self._ask_owner(
            topic,
            lambda request, _: m.Query(id=request, topic=topic, start=start, at_us=at_us, limit=1),
            m.QueryResult,
        )
        return reply.position if reply.batch is None else reply.batch.first_offset

    async def _cursors_of(self, topic: str, addresses: Mapping[str, Address]) -> list[CursorInfo]:
        """What peers know of the subscriptions of a topic, or of all."""
        replies = await self._ask_peers(
            addresses, lambda request: m.Cursors(request, topic), "the subscriptions that it keeps"
        )
        return [info for reply in replies if isinstance(reply, m.CursorList) for info in reply.cursors]


def merged(found: list[CursorInfo]) -> list[CursorInfo]:
    """One entry for each subscription: of a peer's own its peer says where it is, the owner how much lies behind."""
    by_name: dict[tuple[str, str], CursorInfo] = {}
    for info in found:
        name = (info.topic, info.subscription)
        by_name[name] = _joined(by_name[name], info) if name in by_name else info
    return [by_name[name] for name in sorted(by_name)]


def _joined(one: CursorInfo, other: CursorInfo) -> CursorInfo:
    own, noted = (one, other) if one.lag is None else (other, one)
    if own.lag is not None or noted.lag is None:
        return one
    behind = own.position - noted.position
    return msgspec.structs.replace(own, lag=max(0, noted.lag - behind))


def _kept_by(name: str) -> str:
    """The peer that keeps a subscription; empty where that is the topic's owner."""
    return name.partition("@")[2]


def _not_found(topic: str, name: str) -> SubscriptionNotFoundError:
    return SubscriptionNotFoundError(
        f"topic {topic} has no durable subscription {name}; those it has: pubsub subscription list {topic}"
    )
