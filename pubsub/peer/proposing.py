"""Asking the index to change the record of a topic that this peer owns, and what it is now.

Rules: a proposal is stored before it is sent, and sent again until its outcome is known. One of a topic at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pubsub.core.replication import Proposal
from pubsub.errors import NotOwnerError, PubsubError
from pubsub.peer.owning import Owned
from pubsub.protocol import messages as m
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

PROPOSALS_AT_ONCE = 200
PROPOSE_SECONDS = 3.0
RETRY_US = 500_000
"""How long a proposal that got no answer waits before it is sent again."""
CHECK_US = 3_000_000
"""How long it may take to find out whether this peer still owns a topic ..."""
CHECK_PAUSE_SECONDS = 0.25
"""... and how often it is looked at who has been heard."""


class Proposing:
    """See the module's text."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._proposing: set[asyncio.Task[None]] = set()

    def start(self, owned: Owned, proposal: Proposal | None, now: int) -> None:
        """Store what has changed of a topic's copies, and send a proposal, unless one of the topic is under way."""
        if owned.proposing or now < owned.retry_at or len(self._proposing) >= PROPOSALS_AT_ONCE:
            return
        owned.proposing = True
        task = asyncio.create_task(
            self._send_proposal(owned, proposal), name=f"pubsub: propose for {owned.topic.name}"
        )
        self._proposing.add(task)
        task.add_done_callback(self._proposing.discard)

    async def _send_proposal(self, owned: Owned, proposal: Proposal | None) -> None:
        topic, store = owned.topic, self._node.store
        try:
            if owned.unsaved(proposal):
                await store.copies.set_state(topic, owned.progress.epoch, owned.progress.configs, proposal)
            if proposal is not None and not await self.propose(topic, proposal.version, proposal.in_sync):
                owned.retry_at = self._node.replicas.now() + RETRY_US
        except PubsubError as error:
            log.info("the in-sync copies of topic %s are not changed yet: %s", topic.name, error)
            owned.retry_at = self._node.replicas.now() + RETRY_US
        finally:
            owned.proposing = False
            self._node.replicas.look_at(owned)

    async def check_owner(self, topic: Topic) -> None:
        """Return once it is sure that this peer owned a topic when it was asked: an index says so, or its copies do.

        Raises:
            NotOwnerError: it does not, or nobody can tell.
        """
        replicas = self._node.replicas
        owned, asked_at = replicas.find(topic), replicas.now()
        with contextlib.suppress(PubsubError):
            await self.propose(topic, -1, [])
            if owned is not None and replicas.find(topic) is owned:
                return
        while owned is not None and replicas.find(topic) is owned and replicas.now() - asked_at < CHECK_US:
            heard = [peer for peer, at in owned.heard_at.items() if at > asked_at]
            if len({*heard, self._node.name}) >= owned.progress.membership.min_in_sync and len(heard) > 0:
                return
            await asyncio.sleep(CHECK_PAUSE_SECONDS)
        raise NotOwnerError(f"nobody confirms that peer {self._node.name} owns topic {topic.name}; ask again")

    async def propose(self, topic: Topic, version: int, in_sync: Iterable[str], owner: str = "") -> bool:
        """Ask the index to change a topic's record, and take over what it is then; True if it was changed.

        A version that never was (-1) only asks.

        Raises:
            PubsubError: no index answered.
        """
        node = self._node
        link = await node.directory.link()
        reply = await link.request(
            m.Propose(
                id=link.next_id(),
                name=node.name,
                incarnation=node.store.incarnation,
                topic=topic.name,
                topic_id=topic.id,
                epoch=topic.epoch,
                version=version,
                in_sync=list(in_sync),
                owner=owner,
            ),
            PROPOSE_SECONDS,
        )
        if not isinstance(reply, m.Proposed):
            return False
        record = reply.record
        if record is None or (record.epoch, record.version) < (topic.epoch, topic.version):
            node.announce_soon()
        else:
            await node.holding.update(topic, record)
        return reply.applied

    async def close(self) -> None:
        """Wait for no answer any more."""
        for task in self._proposing:
            task.cancel()
        await asyncio.gather(*self._proposing, return_exceptions=True)
