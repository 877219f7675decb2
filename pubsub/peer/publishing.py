"""Taking publishes in: what must hold of a batch before it may go to the writer, and its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pubsub.core.schedule import due_us
from pubsub.errors import (
    InternalError,
    InvalidRequestError,
    MessageTooLargeError,
    NotOwnerError,
    PubsubError,
    SequenceError,
)
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.policy import stored_policy
from pubsub.protocol import messages as m
from pubsub.protocol.batch import BATCH_MESSAGES, check_message_id, column_bytes, decode_headers
from pubsub.protocol.codec import encode_frame
from pubsub.protocol.messages import Publish
from pubsub.storage.store import Append
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

ACKS_OWNER = 1
"""Of a publish: answer once it is on the owner's disk."""
QUEUED_MESSAGE_BYTES = 16
"""What a message waiting for its commit counts for besides what it carries, so that empty ones are bounded too."""


class Publishing:
    """Serves Publish."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._doubting: set[asyncio.Task[None]] = set()
        self.immediate: dict[type, ImmediateHandler] = {m.Publish: self.on_publish}
        self.requests: dict[type, RequestHandler] = {}

    def on_publish(self, connection: ServerConnection, frame: m.Publish) -> None:
        def answer(reply: m.Published | PubsubError) -> None:
            if isinstance(reply, PubsubError):
                connection.refuse(frame.id, reply)
            else:
                connection.send(encode_frame(reply))

        self.publish(frame, answer)
        if self._node.store.full:
            connection.hold_reading("storage")
            self._node.store.when_room(lambda: connection.release_reading("storage"))

    def publish(self, frame: m.Publish, answer: Callable[[m.Published | PubsubError], None]) -> None:
        """Store a batch, or hold it until it is due; `answer` is called once it is on disk, or why it is not."""
        node = self._node
        try:
            size_bytes = check_publish(frame, node.limits.message_bytes)
            due = due_us(frame.deliver_us, frame.delay_us, time.time_ns() // 1000)
            topic = node.owned(frame.topic, frame.topic_id)
            if topic.replicas:
                self._check_copies(topic, frame)
        except PubsubError as error:
            answer(error)
            return
        count = len(frame.payloads)

        def done(append: Append, first_offset: int, duplicate: bool, error: PubsubError | None) -> None:
            if isinstance(error, SequenceError) and topic.replicas:
                self._doubt(topic, error, answer)
                return
            if error is not None:
                answer(error)
                return
            if not duplicate:
                if due:
                    node.schedule.added(topic, count, due)
                else:
                    node.published_messages += len(append.payloads)  # without those stored before
            if topic.replicas and due:
                self._node.shipping.wait(
                    topic,
                    lambda error: answer(
                        error or m.Published(frame.id, first_offset, duplicate, append.offsets)
                    ),
                )
            elif topic.replicas:
                self._answer_replicated(topic, frame, append, first_offset, duplicate, answer)
            else:
                answer(m.Published(frame.id, first_offset, duplicate, append.offsets))

        append = Append(
            topic.id,
            topic.epoch,
            frame.producer,
            frame.sequence,
            frame.keys,
            frame.headers,
            frame.payloads,
            size_bytes + QUEUED_MESSAGE_BYTES * count,
            done,
        )
        if due:
            append.due_us = due
            append.wide_ids = bool(topic.replicas)
        elif frame.expect_offset != -1 or frame.message_ids is not None:
            append.expect_offset = frame.expect_offset
            append.message_ids = frame.message_ids
            append.dedupe_us = stored_policy(topic.policy).dedupe_us
        node.store.append(append)

    def _doubt(
        self, topic: Topic, error: SequenceError, answer: Callable[[m.Published | PubsubError], None]
    ) -> None:
        """Say that a batch came out of order only if this peer still owns the topic.

        A former owner that was stopped and goes on knows less than its successor: who believed it would send again,
        as a new producer, what that one has stored.
        """

        async def ask() -> None:
            await self._node.proposing.check_owner(topic)
            answer(error)

        def done(asking: asyncio.Task[None]) -> None:
            self._doubting.discard(asking)
            if not asking.cancelled() and (failure := asking.exception()) is not None:
                refused = failure if isinstance(failure, PubsubError) else InternalError(str(failure))
                answer(refused)

        task = asyncio.create_task(ask(), name=f"pubsub: does this peer own {topic.name}")
        self._doubting.add(task)
        task.add_done_callback(done)

    def _check_copies(self, topic: Topic, frame: m.Publish) -> None:
        """
        Raises:
            TooFewCopiesError: the batch is to be on all copies that are in sync, and those are too few.
            NotOwnerError: the topic is being handed over.
        """
        owned = self._node.replicas.find(topic)
        if owned is None:
            raise NotOwnerError(f"topic {topic.name} is changing hands; ask for its owner again")
        refusal = owned.refusal()
        if refusal is not None and (frame.acks != ACKS_OWNER or isinstance(refusal, NotOwnerError)):
            raise refusal

    def _answer_replicated(
        self,
        topic: Topic,
        frame: m.Publish,
        append: Append,
        first_offset: int,
        duplicate: bool,
        answer: Callable[[m.Published | PubsubError], None],
    ) -> None:
        """Answer once the batch is where it is to be."""
        offsets = append.offsets
        published = m.Published(frame.id, first_offset, duplicate, offsets)
        stop = max(offsets) + 1 if offsets else first_offset + len(frame.payloads)

        def committed(holders: list[str] | None, error: PubsubError | None) -> None:
            answer(msgspec.structs.replace(published, in_sync=holders) if error is None else error)

        if frame.acks == ACKS_OWNER:
            owned = self._node.replicas.find(topic)
            holders = None if owned is None else owned.progress.holders(stop)
            answer(msgspec.structs.replace(published, in_sync=holders))
        else:
            self._node.replicas.wait(topic, stop, committed)


def check_publish(frame: Publish, message_bytes: int) -> int:
    """The size of a batch: payloads, keys and headers.

    Raises:
        InvalidRequestError: its columns do not fit each other, its headers are no JSON objects, or its numbers
            lie outside their range.
        MessageTooLargeError: one message is over the limit; none of the batch is stored.
    """
    count = len(frame.payloads)
    if count == 0:
        raise InvalidRequestError("a batch holds at least one message")
    if count > BATCH_MESSAGES:
        raise InvalidRequestError(f"a batch holds at most {BATCH_MESSAGES} messages, not {count}")
    for name, column in (
        ("keys", frame.keys),
        ("headers", frame.headers),
        ("message ids", frame.message_ids),
    ):
        if column is not None and len(column) != count:
            raise InvalidRequestError(f"a batch of {count} messages has {len(column)} {name}")
    if not (0 <= frame.producer < 2**63 and 0 <= frame.sequence < 2**62):
        raise InvalidRequestError("producer and sequence are not negative and fit 63 bits")
    if None in frame.payloads:
        keys = frame.keys or [None] * count
        if any(payload is None and key is None for payload, key in zip(frame.payloads, keys, strict=True)):
            raise InvalidRequestError(
                "a payload is missing, and no key that a message without one would remove"
            )
    if frame.headers is not None:
        for text in frame.headers:
            decode_headers(text)
    if frame.expect_offset != -1 or frame.message_ids is not None:
        _check_conditions(frame)
    size_bytes = column_bytes(frame.payloads) + column_bytes(frame.keys) + column_bytes(frame.headers)
    if size_bytes > message_bytes:
        _check_each(frame, message_bytes)
    return size_bytes


def _check_conditions(frame: Publish) -> None:
    if not -1 <= frame.expect_offset < 2**63:
        raise InvalidRequestError(f"an expected offset is a number from 0 on, not {frame.expect_offset}")
    if frame.deliver_us or frame.delay_us:
        raise InvalidRequestError(
            "messages for later take neither message ids nor an expected offset: they get their offsets when due"
        )
    for message_id in frame.message_ids or ():
        if message_id is not None:
            check_message_id(message_id)


def _check_each(frame: Publish, limit_bytes: int) -> None:
    for position, payload in enumerate(frame.payloads):
        size_bytes = len(payload or b"")
        size_bytes += len((frame.keys[position] if frame.keys else None) or "")
        size_bytes += len((frame.headers[position] if frame.headers else None) or "")
        if size_bytes > limit_bytes:
            raise MessageTooLargeError(
                f"message {position} of a batch has {size_bytes} bytes with key and headers; "
                f"at most {limit_bytes} are allowed; nothing of the batch was stored",
                limit_bytes=limit_bytes,
                index=position,
            )
