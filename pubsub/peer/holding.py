"""What an index says of the copies that this peer holds: which to have, in which role, and since when.

Rules: the word of an older epoch or version changes nothing. That this peer owns a topic from now on is believed only
as the answer to a question of its own: a push may have been under way for long. A copy that has promised a newer epoch
refuses. A copy that was dropped since this peer asked is not made anew by the answer, and by nothing before all rows of
the former one are deleted. Changes of one topic are made one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pubsub.core.epochs import last_epoch
from pubsub.errors import ConflictError, NotOwnerError, PubsubError, TopicExistsError, TopicNotFoundError
from pubsub.model import check_topic_name
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.following import NEVER_A_VERSION
from pubsub.peer.keyed_locks import KeyedLocks
from pubsub.peer.owning import membership
from pubsub.protocol import messages as m
from pubsub.storage.topic import OWNER, Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")


class Holding:
    """Serves CreateCopy, DropCopy, CopyEnds and HandOver."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.changing = KeyedLocks()
        """By topic id, held by whoever changes the role of a topic."""
        self._dropped: set[int] | None = None
        """Ids of the copies that were dropped since the announcement under way began; None: none is."""
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {
            m.CreateCopy: self.on_create_copy,
            m.DropCopy: self.on_drop_copy,
            m.CopyEnds: self.on_copy_ends,
            m.HandOver: self.on_hand_over,
        }

    async def on_create_copy(self, connection: ServerConnection, frame: m.CreateCopy) -> m.Frame:
        copy = frame.copy
        topic = self._node.store.by_id.get(copy.id)
        if topic is not None and copy.role == OWNER and copy.epoch > topic.epoch and topic.set_aside is None:
            self._check_promise(topic, copy)
            await self._node.proposing.propose(topic, NEVER_A_VERSION, [])
        else:
            await self.take(copy)
        return m.Done(frame.id)

    def _check_promise(self, topic: Topic, copy: m.CopyState) -> None:
        if copy.epoch < topic.promised:
            raise ConflictError(
                f"the copy of topic {topic.name} has promised epoch {topic.promised}, and takes none before it",
                highest_epoch=topic.promised,
            )

    async def take(self, copy: m.CopyState) -> None:
        """Hold a topic as a record of the registry says, which is known to be no old one.

        Raises:
            InvalidNameError: its name is illegal.
            TopicExistsError: a later topic has the name here, so the word is an old one that was held up.
            ConflictError: the copy has promised a newer epoch; or its data are gone, and others have them; or a
                former copy is not all deleted yet.
        """
        check_topic_name(copy.topic)
        async with self.changing.hold(copy.id):
            await self._take(copy)

    async def update(self, topic: Topic, copy: m.CopyState) -> None:
        """Change a copy that is held as a record says; one that is dropped meanwhile is not made anew.

        Raises:
            ConflictError: the copy has promised a newer epoch.
        """
        async with self.changing.hold(topic.id):
            if self._node.store.by_id.get(topic.id) is topic and topic.set_aside is None:
                await self._change(topic, copy)

    @contextmanager
    def announcing(self) -> Iterator[None]:
        """While this peer announces, and carries out the answer: what it drops meanwhile, that does not make anew."""
        self._dropped = set()
        try:
            yield
        finally:
            self._dropped = None

    async def take_announced(self, copies: Iterable[m.CopyState]) -> None:
        """`take` what an announcement was answered, but for what was dropped since: the answer may be older."""
        for copy in copies:
            if self._dropped is not None and copy.id in self._dropped:
                continue
            try:
                await self.take(copy)
            except ConflictError as error:
                log.warning("%s", error)
                if error.data.get("purging"):
                    self._node.announce_soon()

    async def _take(self, copy: m.CopyState) -> None:
        node, store = self._node, self._node.store
        other = store.topics.get(copy.topic)
        if other is not None and other.id != copy.id:
            if other.created_us > copy.created_us:
                raise TopicExistsError(f"topic {copy.topic} was created anew since then", owner=other.owner)
            await node.set_aside(other, f"its name belongs to topic {copy.id} since then")
        topic = store.by_id.get(copy.id)
        if topic is None:
            if copy.role == OWNER and set(copy.in_sync) - {node.name}:
                raise ConflictError(
                    f"peer {node.name} is to own topic {copy.topic}, and has lost its copy; others have one",
                    lost=True,
                )
            self.begin(await store.create(copy))
        elif store.is_purging(topic):
            raise ConflictError(
                f"peer {node.name} still deletes the rows of its former copy of topic {copy.topic}; ask again",
                purging=True,
            )
        elif topic.set_aside is None:
            await self._change(topic, copy)

    async def _change(self, topic: Topic, copy: m.CopyState) -> None:
        known = (topic.epoch, topic.version)
        if (copy.epoch, copy.version) <= known:
            if (copy.epoch, copy.version) == known and copy.owner_address not in ("", topic.owner_address):
                topic.owner_address = copy.owner_address  # it serves elsewhere since it was started again
                self._node.following.owner_moved(topic)
            return
        self._check_promise(topic, copy)
        if copy.epoch == topic.epoch:
            await self._change_members(topic, copy)
            return
        if copy.role == OWNER and not topic.sound and not copy.lossy:
            raise ConflictError(f"the copy of topic {topic.name} has lost something, and cannot own it")
        error = NotOwnerError(f"peer {copy.owner} owns topic {topic.name} now", owner=copy.owner)
        self._node.changing_hands.add(topic.id)
        try:
            self.end(topic, error)
            try:
                await self._node.store.copies.take_role(topic, copy)
            finally:
                self.begin(topic)
                if topic.owned:
                    await self._node.serve_topic(topic)
        finally:
            self._node.changing_hands.discard(topic.id)

    async def _change_members(self, topic: Topic, copy: m.CopyState) -> None:
        if copy.owner != topic.owner:
            log.error(
                "topic %s has two owners in epoch %d, %s and %s: only the first is known here",
                *(topic.name, topic.epoch, topic.owner, copy.owner),
            )
            return
        configs = topic.configs
        if topic.owned and copy.replicas:
            config = membership(copy).config
            if not configs or not configs[-1].same_as(config):
                configs = (*configs, config)
        await self._node.store.copies.set_members(topic, copy, configs)
        if topic.owned:
            self._node.replicas.confirmed(topic)
        else:
            self._node.following.owner_moved(topic)

    def begin(self, topic: Topic) -> None:
        """Do what the role of a copy asks for."""
        if topic.set_aside is not None:
            return
        if not topic.owned:
            self._node.following.begin(topic)
        elif topic.replicas:
            self._node.replicas.begin(topic)

    def end(self, topic: Topic, error: PubsubError) -> None:
        """Do it no more."""
        if topic.owned:
            self._node.replicas.end(topic, error)
            self._node.leave_topic(topic, error)
        else:
            self._node.following.end(topic)

    async def on_drop_copy(self, connection: ServerConnection, frame: m.DropCopy) -> m.Frame:
        topic = self._node.store.by_id.get(frame.topic_id)
        if topic is not None and frame.epoch and (frame.epoch, frame.version) < (topic.epoch, topic.version):
            return m.Done(frame.id)  # it has come back since then
        await self.drop(frame.topic_id)
        return m.Done(frame.id)

    async def unwanted(self, copy: m.CopyState) -> None:
        """The topic lives on other peers, by this record."""
        topic = self._node.store.by_id.get(copy.id)
        if topic is not None and (copy.epoch, copy.version) >= (topic.epoch, topic.version):
            await self.drop(copy.id)

    async def drop(self, topic_id: int) -> None:
        """Delete a copy; one that is not held is fine."""
        if self._dropped is not None:
            self._dropped.add(topic_id)
        async with self.changing.hold(topic_id):
            topic = self._node.store.by_id.get(topic_id)
            if topic is not None and topic.set_aside is None:
                if topic.owned:
                    self._node.replicas.end(topic, TopicNotFoundError(f"topic {topic.name} was deleted"))
                else:
                    self._node.following.end(topic)
                try:
                    await self._node.drop_topic(topic)
                except PubsubError:
                    self.begin(topic)
                    raise

    async def on_copy_ends(self, connection: ServerConnection, frame: m.CopyEnds) -> m.Frame:
        store = self._node.store
        topics = [topic for topic_id in frame.topic_ids if (topic := store.by_id.get(topic_id)) is not None]
        if frame.promise:
            await asyncio.gather(
                *(store.copies.promise(t, frame.promise) for t in topics if t.set_aside is None)
            )
        return m.CopyEndList(frame.id, [self.end_of(topic) for topic in topics])

    def end_of(self, topic: Topic) -> m.CopyEnd:
        """How far a copy goes, and what it knows."""
        config = topic.configs[-1] if topic.configs else None
        return m.CopyEnd(
            topic_id=topic.id,
            last_epoch=last_epoch(topic.log_epochs),
            highest_epoch=max(topic.epoch, topic.promised),
            next_offset=topic.next_offset,
            committed=topic.committed,
            sound=topic.set_aside is None and bool(topic.sound) and self._node.store.fault is None,
            config_epoch=0 if config is None else config.epoch,
            config_version=0 if config is None else config.version,
            replicas=[] if config is None else list(config.replicas),
            min_in_sync=0 if config is None else config.min_in_sync,
        )

    async def on_hand_over(self, connection: ServerConnection, frame: m.HandOver) -> m.Frame:
        topic = self._node.store.by_id.get(frame.topic_id)
        if topic is None:
            raise TopicNotFoundError(f"peer {self._node.name} holds no topic {frame.topic_id}")
        if not topic.owned:
            raise NotOwnerError(f"peer {self._node.name} does not own topic {topic.name}", owner=topic.owner)
        await self._node.handing_over.hand_over(topic, frame.to, leaving=False)
        return m.Done(frame.id)
