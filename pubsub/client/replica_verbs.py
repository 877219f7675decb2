"""The verbs of `Client` that change where the copies of topics are, and who owns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pubsub.client.asking import OwnerVerbs
from pubsub.client.directory import Directory
from pubsub.client.routes import topics_in
from pubsub.errors import RemoteProtocolError
from pubsub.model import TopicInfo, check_peer_name, check_topic_name
from pubsub.protocol import messages as m


class ReplicaVerbs(OwnerVerbs):
    """Mixed into `Client`."""

    _directory: Directory

    async def change_replicas(
        self, topic: str, *, add: str | Sequence[str] = (), remove: str | Sequence[str] = ()
    ) -> TopicInfo:
        """Have copies of a topic on other peers; both together move it. Safe at any moment.

        Returns at once, with the topic as it is now: `replicas` in it are not `in_sync` before they hold everything,
        and those that are `leaving` go once enough others do. The policy's `replicas` grows and shrinks with it.

        Raises:
            TopicNotFoundError: there is no such topic.
            PeerNotFoundError: a peer to be added is not alive.
            InvalidRequestError: a peer to be removed holds no copy, or the only one.
            SettingsError: fewer copies would be left than must be in sync (`min_in_sync`).
        """
        self._check_open()
        check_topic_name(topic)
        added, removed = _names(add), _names(remove)
        replies = await self._directory.request(
            lambda request: m.ChangeReplicas(id=request, topic=topic, add=added, remove=removed)
        )
        return topics_in(replies)[0]

    async def promote(self, topic: str, peer: str, *, accept_loss: bool = False) -> str:
        """Make a peer that holds a copy the owner of a topic. Returns a note for people about what is lost.

        Args:
            accept_loss: Also when that copy may lack what was acknowledged, because no other one is alive.

        Raises:
            InvalidRequestError: something may be lost, and that was not accepted; or the topic is online, and this
                copy is not in sync.
            PeerNotFoundError: the peer is not alive.
            PeerUnavailableError: it does not answer, or holds no copy.
        """
        self._check_open()
        check_topic_name(topic)
        check_peer_name(peer)
        replies = await self._directory.request(lambda request: m.Promote(request, topic, peer, accept_loss))
        self._routes.forget(topic)
        return replies[-1].note if isinstance(replies[-1], m.Done) else ""

    async def drain(self, peer: str, *, cancel: bool = False) -> dict[str, Any]:
        """Have everything moved off a peer, and nothing new placed there until it is started again.

        Returns at once; call it again to see how much is left.

        Args:
            cancel: End that: what has moved stays where it is.

        Returns: `topics`, how many the peer holds a copy of; `waiting`, some of them with what they wait for.

        Raises:
            PeerNotFoundError: the peer is not alive.
        """
        self._check_open()
        check_peer_name(peer)
        reply = (await self._directory.request(lambda request: m.Drain(request, peer, cancel)))[-1]
        if not isinstance(reply, m.StatusReport):
            raise RemoteProtocolError(f"unexpected reply to Drain: {type(reply).__name__}")
        return reply.fields


def _names(given: str | Sequence[str]) -> list[str]:
    return [check_peer_name(name) for name in ([given] if isinstance(given, str) else given)]
