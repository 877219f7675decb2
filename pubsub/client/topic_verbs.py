"""The verbs of `Client` about topics, peers and servers: what an index, or a peer in its place, answers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from pubsub.client.asking import OwnerVerbs
from pubsub.client.directory import Directory
from pubsub.client.routes import topics_in
from pubsub.client.watching import watch_changes
from pubsub.errors import TopicNotFoundError
from pubsub.model import (
    Change,
    PeerInfo,
    TopicInfo,
    check_new_topic_name,
    check_pattern,
    check_peer_name,
    check_topic_name,
)
from pubsub.policy import Policy, changed, encode_policy, make_policy
from pubsub.protocol import messages as m


class TopicVerbs(OwnerVerbs):
    """Mixed into `Client`."""

    _directory: Directory
    _closed: bool

    async def create_topic(
        self,
        topic: str,
        *,
        on: str | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        replicas: int | None = None,
    ) -> TopicInfo:
        """Create a topic on the peer `on`, or on the least loaded one that is alive.

        Args:
            policy: What becomes of its messages, `{"max_age": "7d", "compact": True}` say; see `set_policy`.
            replicas: On how many peers it lives; 1 unless the policy says otherwise. Where there are fewer peers, the
                other copies are made later.

        Raises:
            TopicExistsError: there is one of this name.
            PeerNotFoundError: there is no such peer, or it is not alive.
            InvalidNameError: the name is illegal, or reserved.
            SettingsError: the policy is wrong.
        """
        self._check_open()
        check_new_topic_name(topic)
        wanted = make_policy(policy)
        if replicas is not None:
            wanted = changed(wanted, {"replicas": replicas})
        record = encode_policy(wanted)
        if on is not None:
            check_peer_name(on)
        topic_id = secrets.randbits(53) | 1  # chosen here, so that a retry is not taken for somebody else's
        replies = await self._directory.request(
            lambda request: m.CreateTopic(id=request, topic=topic, on=on, policy=record, topic_id=topic_id)
        )
        self._routes.forget(topic)
        return topics_in(replies)[0]

    async def delete_topic(self, topic: str) -> str:
        """Delete a topic with its messages. Returns a note for people, empty when there is nothing to say.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        self._check_open()
        check_topic_name(topic)
        requests = 0

        def make(request: int) -> m.Request:
            nonlocal requests
            requests += 1
            return m.DeleteTopic(request, topic)

        try:
            replies = await self._directory.request(make)
        except TopicNotFoundError:
            if requests == 1:
                raise
            return "it is gone: a request before this one, which got no answer, deleted it"
        finally:
            self._routes.forget(topic)
        return replies[-1].note if isinstance(replies[-1], m.Done) else ""

    async def topics(self, pattern: str = ">") -> list[TopicInfo]:
        """The topics that match a pattern (`*` for one part, a trailing `>` for the rest), by name."""
        self._check_open()
        check_pattern(pattern)
        return topics_in(await self._directory.request(lambda request: m.Topics(request, pattern)))

    async def topic(self, topic: str) -> TopicInfo:
        """One topic.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        self._check_open()
        check_topic_name(topic)
        found = topics_in(await self._directory.request(lambda request: m.Topics(request, topic)))
        if not found:
            raise TopicNotFoundError(f"no topic {topic}; create it with: pubsub topic create {topic}")
        return found[0]

    async def peers(self) -> list[PeerInfo]:
        """The peers that have registered and not said goodbye, by name."""
        self._check_open()
        reply = (await self._directory.request(m.Peers))[-1]
        return reply.peers if isinstance(reply, m.PeerList) else []

    async def status(self) -> dict[str, Any]:
        """What the server that this client is connected to, an index or a peer, says of itself."""
        self._check_open()
        reply = (await self._directory.request(m.Status))[-1]
        return reply.fields if isinstance(reply, m.StatusReport) else {}

    async def watch(self, pattern: str = ">") -> AsyncGenerator[Change, None]:
        """Changes as they happen: topics that match `pattern` created, moved, deleted, and peers coming and going.

        Never ends. The first is a "resync", and so is one after each interruption: changes may have been
        missed before it, none after.
        """
        self._check_open()
        check_pattern(pattern)
        changes = watch_changes(self._directory, self._settings, pattern, lambda: self._closed)
        async with aclosing(changes):
            async for change in changes:
                yield change
