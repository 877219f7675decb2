"""The copies of the topics that this peer owns: feeds them, hears of them, has it registered who is in sync.

Rules: followers get only what is on this peer's disk. What is committed is told to subscribers, groups and publishers
at once, to followers with what they are sent, and otherwise within a moment. What core does not ask about is not looked
at: topics whose copies all have everything cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pubsub.config import MIB
from pubsub.core.credit import Window
from pubsub.core.epochs import EpochStart, where_logs_part
from pubsub.core.replication import Contacts
from pubsub.errors import ConflictError, NotOwnerError, PubsubError
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.feeding import Feeding
from pubsub.peer.owning import Answer, Owned, lag_of, membership
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from pubsub.storage.store import Appended
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

TICK_SECONDS = 0.25
MOST_WINDOW = (2**40, 64 * MIB)
"""What a follower may ask for: messages, bytes."""
PEERS_SECONDS = 1.0
"""How often it is gathered on which peers copies are: of very many topics, that took most of the time at rest."""
SAVE_SECONDS = 1.0
"""How often it is written down what is committed; a restart goes on from there."""


class Replicas:
    """Serves Follow and Progress."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._owned: dict[int, Owned] = {}
        self._contacts: dict[int, Contacts] = {}
        """By how long a copy may be silent or behind, microseconds."""
        self._awake: set[Owned] = set()
        """Topics to be looked at."""
        self._silent: set[tuple[int, str]] = set()
        """(lag, peer) of which nothing was heard for too long."""
        self._peers: set[str] = set()
        """Those that had copies ..."""
        self._peers_at = 0.0
        """... when it was looked up last."""
        self._untold: set[Owned] = set()
        """Of which followers have not heard what is committed."""
        self._unsaved: dict[int, Topic] = {}
        """Of which it is not written down what is committed."""
        self._saved_at = 0.0
        self.immediate: dict[type, ImmediateHandler] = {m.Progress: self.on_progress}
        self.requests: dict[type, RequestHandler] = {m.Follow: self.on_follow}

    def now(self) -> int:
        """Of one monotonic clock, microseconds."""
        return round(self._loop.time() * 1e6)

    # Which topics

    def begin(self, topic: Topic) -> None:
        """This peer owns a replicated topic, in a new epoch or again after a start."""
        now = self.now()
        owned = self._owned[topic.id] = Owned(topic, now)
        self._contacts.setdefault(owned.lag_us, Contacts(owned.lag_us, now))
        self._awake.add(owned)
        self._peers_at = 0.0
        self._advance(owned)

    def end(self, topic: Topic, error: PubsubError) -> None:
        """It owns it no more; whoever waits is told that what becomes of theirs is unknown."""
        owned = self._owned.pop(topic.id, None)
        if owned is not None:
            owned.progress.superseded = True
            for waiting in (self._awake, self._untold):
                waiting.discard(owned)
            owned.fail_waiting(error)
            owned.fail_beside(error)
            for feeding in list(owned.feedings.values()):
                feeding.end(error)

    def find(self, topic: Topic) -> Owned | None:
        """The topic, if this peer owns it and others have copies."""
        return self._owned.get(topic.id)

    def look_at(self, owned: Owned) -> None:
        """Something may be to be done for a topic, if it is still this peer's."""
        if self._owned.get(owned.topic.id) is owned:
            self._awake.add(owned)

    def all(self) -> list[Owned]:
        return list(self._owned.values())

    def confirmed(self, topic: Topic) -> None:
        """The registry's record of a topic has changed within its epoch, and that is stored."""
        owned = self._owned.get(topic.id)
        if owned is None:
            if topic.replicas:
                self.begin(topic)
            return
        before = owned.progress.config
        owned.progress.confirmed(membership(topic))
        owned.lag_us = lag_of(topic)
        self._contacts.setdefault(owned.lag_us, Contacts(owned.lag_us, self.now()))
        if not topic.replicas:  # this peer alone has it now
            del self._owned[topic.id]
            owned.answer_committed()
            owned.answer_beside()
            self._tell_committed(owned)
            for feeding in list(owned.feedings.values()):
                feeding.end(NotOwnerError(f"topic {topic.name} has no replicas any more"))
            return
        if owned.progress.config != before:
            for feeding in list(owned.feedings.values()):  # they come again, and are told
                feeding.end(ConflictError(f"the copies of topic {topic.name} have changed; follow again"))
        self._awake.add(owned)
        self._advance(owned)

    # What happens

    def on_append(self, topic: Topic, appended: Appended) -> None:
        """A commit of this peer has added to a replicated topic."""
        owned = self._owned.get(topic.id)
        if owned is None:  # it is changing hands
            return
        keep = self._node.groups.has_groups(owned.topic)
        owned.appended(appended, self.now(), keep=keep)
        self._awake.add(owned)
        self._advance(owned)

    def _advance(self, owned: Owned) -> None:
        """Tell everybody of what is committed by now, if that is more than before."""
        topic = owned.topic
        if owned.progress.committed > topic.committed:
            topic.committed = owned.progress.committed
            self._tell_committed(owned)
            self._untold.add(owned)
            self.save_soon(topic)
            owned.answer_committed()
        owned.answer_beside()

    def _tell_committed(self, owned: Owned) -> None:
        topic = owned.topic
        self._node.deliveries.on_committed(topic)
        for appended in owned.take_committed():
            self._node.groups.on_append(topic, appended)
        self._node.groups.on_committed(topic)

    def wait(self, topic: Topic, stop: int, answer: Answer) -> None:
        """Call `answer` once what is below `stop` is committed; at once for a topic that this peer alone has."""
        owned = self._owned.get(topic.id)
        if owned is not None:
            owned.wait(stop, answer)
        elif topic.owned and not topic.replicas:
            answer(None, None)
        else:
            error = NotOwnerError(f"peer {self._node.name} does not own topic {topic.name} any more")
            error.data["fate"] = "unknown"
            answer(None, error)

    # Followers

    async def on_follow(self, connection: ServerConnection, frame: m.Follow) -> m.Frame | list[m.Frame]:
        topic = self._node.owned(frame.topic, frame.topic_id)
        owned = self._owned.get(topic.id)
        if owned is None or frame.epoch != topic.epoch or topic.promised > topic.epoch:
            if frame.epoch > topic.epoch:
                self._node.following.ask_index(topic)
            raise NotOwnerError(
                f"peer {self._node.name} owns topic {topic.name} in epoch {topic.epoch}, not {frame.epoch}",
                owner=topic.owner,
                epoch=topic.epoch,
            )
        if frame.name not in topic.replicas:
            raise ConflictError(
                f"peer {frame.name} is no replica of topic {topic.name}, as far as is known here"
            )
        self._node.numbers.check(connection, frame.subscription)
        theirs = [EpochStart(*entry) for entry in frame.epochs]
        parting = where_logs_part(topic.log_epochs, topic.next_offset, theirs, frame.next_offset)
        agrees = parting is not None and parting >= frame.next_offset
        followed = m.Followed(
            id=frame.id,
            truncate_to=-1 if agrees else parting or 0,
            epochs=[(e.epoch, e.start, e.lossy, e.owner) for e in topic.log_epochs],
            first_offset=topic.first_offset,
            committed=topic.committed,
            config=owned.copy_set,
        )
        if not agrees or frame.next_offset < topic.first_offset:
            return followed
        connection.send_frame(followed)
        self._feed(connection, owned, frame)
        return []

    def _feed(self, connection: ServerConnection, owned: Owned, frame: m.Follow) -> None:
        topic, deliveries = owned.topic, self._node.deliveries
        before = owned.feedings.pop(frame.name, None)
        if before is not None:
            before.end()
        feeding = Feeding(
            deliveries.subscriber(connection),
            frame.subscription,
            deliveries.feed(topic),
            frame.next_offset,
            Window(min(frame.window_messages, MOST_WINDOW[0]), min(frame.window_bytes, MOST_WINDOW[1])),
            frame.name,
            self._node.store,
            topic.epoch,
        )
        owned.feedings[frame.name] = feeding
        feeding.when_ended = lambda: self._lost(owned, feeding)
        deliveries.add(feeding)
        feeding.reported = (frame.next_offset, frame.config)
        feeding.sound = frame.sound
        self._heard(frame.name, self.now())
        self._node.shipping.ship_all(owned, feeding)
        feeding.pump()

    def _lost(self, owned: Owned, feeding: Feeding) -> None:
        if owned.feedings.get(feeding.name) is feeding:
            del owned.feedings[feeding.name]
            self._awake.add(owned)

    def on_progress(self, connection: ServerConnection, frame: m.Progress) -> None:
        now = self.now()
        if connection.greeting is not None:
            self._heard(connection.greeting.name, now, leaving=frame.leaving)
        touched: set[Owned] = set()
        beside = dict(frame.beside)
        configs = {number: (epoch, version) for number, epoch, version in frame.configs}
        for number, end, messages, size_bytes in frame.ends:
            feeding = self._node.deliveries.find(connection, number)
            if not isinstance(feeding, Feeding):
                continue
            owned = self._owned.get(feeding.feed.topic.id)
            if owned is None or owned.feedings.get(feeding.name) is not feeding:
                continue
            config = max(configs.get(number, (0, 0)), feeding.reported[1])
            feeding.reported = (end, config)
            owned.heard_at[feeding.name] = now
            if number in beside:
                self._node.shipping.acknowledged(owned, feeding, beside[number])
            if feeding.synced:
                owned.progress.followed(feeding.name, feeding.epoch, end, now, config, sound=feeding.sound)
                if not feeding.sound:
                    self._untold.add(owned)
                if owned.progress.comes_in(feeding.name):
                    self._change_copies(owned, now)
            touched.add(owned)
            feeding.credit(messages, size_bytes)
        for owned in touched:
            self._awake.add(owned)
            self._advance(owned)

    def _heard(self, peer: str, now: int, *, leaving: bool = False) -> None:
        for contacts in self._contacts.values():
            if not leaving:
                contacts.heard(peer, now)
            elif not contacts.is_leaving(peer):
                contacts.leaves(peer)
                self._awake.update(o for o in self._owned.values() if peer in o.topic.replicas)

    # Now and then

    async def run(self) -> None:
        """Look at what is under way until cancelled."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self._tick()
                if self._loop.time() - self._saved_at > SAVE_SECONDS:
                    await self._save()
        finally:
            await self._node.proposing.close()

    def _tick(self) -> None:
        now = self.now()
        for contacts in self._contacts.values():
            contacts.tick(now)
            if self._node.following.leaving:
                contacts.nobody_leaves()
        self._find_silent(now)
        for owned in list(self._awake):
            if not self._change_copies(owned, now) and owned.progress.quiet:
                self._awake.discard(owned)
            self._advance(owned)
            if owned.waiting and not owned.progress.enough and not owned.progress.resigning:
                refusal = owned.refusal()
                if refusal is not None:
                    owned.fail_waiting(refusal)
        self._tell_followers()

    def _change_copies(self, owned: Owned, now: int) -> bool:
        """Propose what core wants to be changed of a topic's copies, if anything."""
        proposal = owned.progress.tick(now, self._contacts[owned.lag_us])
        wanted = proposal is not None or owned.unsaved(None)
        if wanted:
            self._node.proposing.start(owned, proposal, now)
        return wanted

    def _find_silent(self, now: int) -> None:
        """Wake the topics of peers of which nothing is heard any more."""
        if self._loop.time() - self._peers_at >= PEERS_SECONDS:
            self._peers_at = self._loop.time()
            self._peers = {peer for owned in self._owned.values() for peer in owned.topic.replicas}
        for lag, contacts in self._contacts.items():
            for peer in self._peers:
                silent = contacts.silent(peer, 0, now)
                if silent and (lag, peer) not in self._silent:
                    self._silent.add((lag, peer))
                    self._awake.update(o for o in self._owned.values() if peer in o.topic.replicas)
                elif not silent:
                    self._silent.discard((lag, peer))

    def _tell_followers(self) -> None:
        """Tell of what is committed and kept, one frame for each connection."""
        marks: dict[ServerConnection, m.Marks] = {}
        for owned in self._untold:
            topic = owned.topic
            for feeding in owned.feedings.values():
                told = marks.setdefault(feeding.connection, m.Marks([], []))
                told.marks.append((feeding.number, topic.committed, topic.first_offset))
                if not feeding.sound and owned.progress.admits(feeding.name):
                    told.sound.append(feeding.number)
        # Who is not sound is told once the registry has confirmed it: to be looked at again.
        self._untold = {o for o in self._untold if not all(f.sound for f in o.feedings.values())}
        for connection, told in marks.items():
            connection.send(encode_frame(told))

    def save_soon(self, topic: Topic) -> None:
        """Of this topic, a copy's too, it is to be written down what is committed."""
        self._unsaved[topic.id] = topic

    def tell_first_offset(self, topic: Topic) -> None:
        """Retention has moved the first kept offset."""
        owned = self._owned.get(topic.id)
        if owned is not None:
            self._untold.add(owned)

    async def _save(self) -> None:
        self._saved_at = self._loop.time()
        topics, self._unsaved = list(self._unsaved.values()), {}
        if topics:
            left = topics
            try:
                left = await self._node.store.copies.save_committed(topics)
            except PubsubError as error:
                log.info("what is committed is written down later: %s", error)
            for topic in left:
                if self._node.store.by_id.get(topic.id) is topic:
                    self.save_soon(topic)
