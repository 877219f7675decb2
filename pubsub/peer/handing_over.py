"""Giving topics away while this peer is well: before it stops, and when an index asks for it.

Rules: first nothing more is taken, then the successor has everything, then the record says so. What publishers send
meanwhile is refused with an error after which they ask for the owner again; nothing of it is stored here. When it
cannot be done in time the topic goes on as if nothing had been asked, or the others find out by its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from pubsub.errors import ConflictError, PubsubError
from pubsub.peer.owning import Owned
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

CATCH_UP_SECONDS = 2.0
"""How long a successor may take to have everything."""
LOOK_SECONDS = 0.01
AT_ONCE = 200


class HandingOver:
    """See the module's text."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def hand_over(self, topic: Topic, to: str = "", *, leaving: bool) -> None:
        """Resign in favour of an in-sync copy: `to`, or any.

        Args:
            leaving: This peer is about to stop.

        Raises:
            ConflictError: no copy is in sync that could take over; this peer goes on.
            PubsubError: no index answered.
        """
        replicas = self._node.replicas
        owned = replicas.find(topic)
        if owned is None or (to and to not in owned.progress.in_sync):
            raise ConflictError(f"no copy of topic {topic.name} is in sync at {to or 'any other peer'}")
        owned.progress.resign()
        try:
            successor = await self._successor(owned, to)
            in_sync = [peer for peer in topic.in_sync if not leaving or peer != self._node.name]
            if not await self._node.proposing.propose(topic, topic.version, in_sync, successor):
                raise ConflictError(f"the record of topic {topic.name} has changed meanwhile")
        finally:
            if replicas.find(topic) is owned:
                owned.progress.resigning = False

    async def _successor(self, owned: Owned, to: str) -> str:
        """Wait until one has everything."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + CATCH_UP_SECONDS
        while loop.time() < give_up_at:
            # A proposal under way would change the version beneath us.
            if owned.progress.proposal is None and not owned.proposing:
                successor = owned.progress.successor([to] if to else None)
                if successor is not None:
                    return successor
            await asyncio.sleep(LOOK_SECONDS)
        raise ConflictError(f"no copy of topic {owned.topic.name} has caught up in time")

    async def hand_over_all(self, timeout_seconds: float) -> None:
        """Before this peer stops: every topic to whoever can take it. Quietly gives up what cannot be done in time."""
        owned = [o for o in self._node.replicas.all() if o.progress.in_sync - {self._node.name}]
        if not owned or not self._node.registered:
            return
        for one in owned:
            one.progress.resign()
        at_once = asyncio.Semaphore(AT_ONCE)

        async def give(topic: Topic) -> None:
            async with at_once:
                try:
                    await self.hand_over(topic, leaving=True)
                except PubsubError as error:
                    log.info("topic %s is not handed over: %s", topic.name, error)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), asyncio.TaskGroup() as group:
                for one in owned:
                    group.create_task(give(one.topic), name=f"pubsub: hand over {one.topic.name}")
