"""Messages that a group has given up: moved to the topic's dead letters, and made ready again.

The dead letter topic of T is T.dead, owned by the same peer and in the same file, so that a message leaves the group
and arrives there in one transaction. It is made at first need, also without an index, which is told afterwards. If an
index knows that another peer has a topic of that name (T was deleted there, say, and created here), messages that were
given up wait in their group until that one has been deleted. If one was made without an index, and its name turns out
to be taken, it is set aside, and its letters can be redriven all the same.

`dead_letters` has for each of its messages which message of which group it was.

A redriven message is ready again in its group only, at its own offset, if the topic still keeps it; no one else
sees it twice (docs/decisions/0004). Otherwise it is published to the topic anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pubsub.client.routes import topics_in
from pubsub.core.dead_letters import (
    dead_headers,
    dead_letter_topic,
    is_dead_letter_topic,
    redriven_headers,
)
from pubsub.core.group import MOST_ENTRIES
from pubsub.core.topic_ids import MOST_ID
from pubsub.errors import InvalidRequestError, NotOwnerError, PubsubError, TopicExistsError
from pubsub.model import iso_from_us
from pubsub.peer.group_supply import offsets_of, picked
from pubsub.peer.group_work import GroupWork
from pubsub.peer.keyed_locks import KeyedLocks
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes, decode_headers, encode_headers
from pubsub.protocol.messages import Batch, CopyState
from pubsub.storage.given_up import GivenUp
from pubsub.storage.groups import DeadLetter, bury, dead_letters, read_offsets, revive, unbury
from pubsub.storage.rows import stored_bytes
from pubsub.storage.store import Append, Statement
from pubsub.storage.topic import Topic
from pubsub.storage.work import resolve

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

ASK_SECONDS = 2.0
"""How long an index is asked whether the name of a dead letter topic is free."""
REDRIVEN_AT_ONCE = 200
"""Dead letters in one transaction."""
LETTER_LOG_BYTES = 500
"""What reviving one adds to the write-ahead log, about, besides the page that its message leaves."""


class DeadLetters:
    """Moves messages between groups and the dead letter topics of this peer."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._making = KeyedLocks()
        """By the id of the topic that the dead letters come from."""

    # Giving up

    async def bury(self, work: GroupWork, offsets: list[int]) -> None:
        """Make dead letters of dying messages, as many as fit one read, but for those that retention takes meanwhile.

        Raises:
            PubsubError: nothing has been moved.
        """
        store, topic = self._node.store, work.topic
        batch, missing = await store.look(read_offsets, topic.id, offsets, store.settings.read_bytes)
        work.group.vanished(missing)
        if batch is None:
            return
        dead = await self._topic_for(topic)
        positions: list[int] = []
        given_up: list[GivenUp] = []
        for position, offset in enumerate(offsets_of(batch)):
            if (why := work.why_dying(offset)) is not None:
                positions.append(position)
                given_up.append(GivenUp(work.name, offset, *why))
        if not given_up:
            return
        batch = picked(batch, positions)
        headers: list[str | None] = [
            self._headers(work, batch, position, gone) for position, gone in enumerate(given_up)
        ]
        rows = partial(bury, topic.id, given_up, dead.id)
        await self._append(dead, batch, headers, statements_at=rows)
        work.group.buried([gone.offset for gone in given_up])
        work.dead += len(given_up)

    def _headers(self, work: GroupWork, batch: Batch, position: int, gone: GivenUp) -> str | None:
        times = batch.published_us
        return encode_headers(
            dead_headers(
                decode_headers(batch.headers[position] if batch.headers else None),
                topic=work.topic.name,
                offset=gone.offset,
                group=work.name,
                reason=gone.reason,
                attempts=gone.attempts,
                published_at=iso_from_us(times if isinstance(times, int) else times[position]),
            )
        )

    async def _append(
        self,
        topic: Topic,
        batch: Batch,
        headers: list[str | None],
        *,
        statements: Sequence[Statement] = (),
        statements_at: Callable[[int], Sequence[Statement]] | None = None,
    ) -> None:
        """Store the messages of a batch in a topic, with other headers, and run statements in that transaction."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: Append, first_offset: int, duplicate: bool, error: PubsubError | None) -> None:
            resolve(stored, None, error)

        self._node.store.append(
            Append(
                topic_id=topic.id,
                epoch=topic.epoch,
                producer=0,
                sequence=0,
                keys=batch.keys,
                headers=headers,
                payloads=batch.payloads,
                size_bytes=batch_bytes(batch),
                done=done,
                statements=statements,
                statements_at=statements_at,
            )
        )
        await stored

    async def _topic_for(self, topic: Topic) -> Topic:
        """The dead letter topic of a topic; made if there is none."""
        name = dead_letter_topic(topic.name)
        assert name is not None, "such a topic has no groups that give up"
        topics = self._node.store.topics
        held = topics.get(name)
        if held is None:
            async with self._making.hold(topic.id):
                held = topics.get(name) or await self._make(name, topic)
        if held.role != "owner":
            raise NotOwnerError(f"peer {self._node.name} does not own topic {name}", owner=held.owner)
        return held

    async def _make(self, name: str, topic: Topic) -> Topic:
        await self._check_free(name)
        held = self._node.store.topics.get(name)
        if held is not None:  # an index has given it to this peer meanwhile
            return held
        made = await self._node.store.create(
            CopyState(
                id=secrets.randbelow(MOST_ID) + 1,
                topic=name,
                role="owner",
                owner=self._node.name,
                epoch=1,
                created_us=time.time_ns() // 1000,
            )
        )
        log.info("topic %s was made for what groups of %s gave up", name, topic.name)
        self._node.announce_soon()
        return made

    async def _check_free(self, name: str) -> None:
        """Raises TopicExistsError if, as far as can be learnt now, another peer has a topic of this name."""
        if not self._node.registered:
            return
        try:
            replies = await self._node.directory.request(lambda id: m.Topics(id, name), ASK_SECONDS)
        except PubsubError as error:
            log.info("topic %s is made without the index: %s", name, error)
            return
        for info in topics_in(replies):
            if info.owner != self._node.name:
                raise TopicExistsError(
                    f"peer {info.owner} owns the topic {name}; delete it: pubsub topic delete {name}",
                    owner=info.owner,
                )

    # Redriving

    async def redrive(self, work: GroupWork) -> str:
        """Make every dead letter of a group ready again; the caller holds `work.changing`. Returns a note for people.

        Raises:
            PubsubError: not all of them are; each is in one place, though.
        """
        if is_dead_letter_topic(work.topic.name):
            raise InvalidRequestError(f"{work.topic.name} is a topic of dead letters: it has none of its own")
        work.check_sound()
        await work.until_buried()
        ready, anew = work.group.spare(), 0
        work.pump_soon()
        while len(work.group.entries) + REDRIVEN_AT_ONCE <= MOST_ENTRIES:
            letters = await self._node.store.look(dead_letters, work.topic.id, work.name, REDRIVEN_AT_ONCE)
            if not letters:
                break
            kept = [letter for letter in letters if letter.source_kept]
            if kept:
                await self._revive(work, kept)
                ready += len(kept)
                continue
            same = [letter for letter in letters if letter.topic_id == letters[0].topic_id]
            anew += await self._publish_anew(work, same)
        note = f"{ready} dead letters of group {work.name} are ready again"
        if anew:
            note += (
                f"; {anew} that the topic did not keep any more were published to it anew, for every reader"
            )
        if work.dead:
            note += f"; {work.dead} are left: redrive again when the group has done some of its work"
        return note

    async def _revive(self, work: GroupWork, letters: list[DeadLetter]) -> None:
        """Make those ready of which the topic still has the message; what the cursor has not passed comes anyway."""
        again = [
            letter.source_offset
            for letter in letters
            if letter.source_kept and letter.source_offset < work.group.cursor
        ]
        keys = {letter.source_offset: letter.source_key for letter in letters}

        def committed(sizes: dict[int, tuple[int, int]]) -> None:
            for dead_id, (messages, size_bytes) in sizes.items():
                dead = self._node.store.by_id.get(dead_id)
                if dead is not None:
                    dead.messages, dead.size_bytes = messages, size_bytes
            work.dead = max(0, work.dead - len(letters))
            for offset in again:
                work.group.restore(offset, keys[offset])
            work.pump_soon()

        await self._node.store.step(
            partial(revive, topic_id=work.topic.id, name=work.name, letters=letters, again=again),
            LETTER_LOG_BYTES * len(letters),
            committed,
        )

    async def _publish_anew(self, work: GroupWork, letters: list[DeadLetter]) -> int:
        """Publish dead letters, all of one topic, to the topic that they came from. Returns how many it were."""
        store, topic, dead_id = self._node.store, work.topic, letters[0].topic_id
        offsets = [letter.offset for letter in letters]
        batch, missing = await store.look(read_offsets, dead_id, offsets, store.settings.read_bytes)
        gone = set(missing)
        if gone:  # neither here nor there
            await self._revive(work, [letter for letter in letters if letter.offset in gone])
        if batch is None:
            return 0
        here = set(offsets_of(batch))
        moved = [letter for letter in letters if letter.offset in here]
        before = batch.headers or [None] * len(moved)
        headers = [encode_headers(redriven_headers(decode_headers(text))) for text in before]
        await self._append(topic, batch, headers, statements=unbury(moved))
        dead = store.by_id.get(dead_id)
        if dead is not None:
            dead.messages -= len(moved)
            dead.size_bytes -= stored_bytes(batch.keys, batch.headers, batch.payloads)
        work.dead = max(0, work.dead - len(moved))
        return len(moved)
