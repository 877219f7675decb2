"""Taking publishes in: what must hold of a batch before it may go to the writer, and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pubsub.errors import InvalidRequestError, MessageTooLargeError, PubsubError
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.protocol import messages as m
from pubsub.protocol.batch import column_bytes, decode_headers
from pubsub.protocol.codec import encode_frame
from pubsub.protocol.messages import Publish
from pubsub.storage.store import Append

if TYPE_CHECKING:
    from pubsub.peer.node import Node

QUEUED_MESSAGE_BYTES = 16
"""What a message waiting for its commit counts for besides what it carries, so that empty ones are bounded too."""

BATCH_MESSAGES = 10_000
"""Most messages in one publish: a frame of empty ones could hold millions, and a commit takes it whole."""


class Publishing:
    """Serves Publish."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.immediate: dict[type, ImmediateHandler] = {m.Publish: self.on_publish}
        self.requests: dict[type, RequestHandler] = {}

    def on_publish(self, connection: ServerConnection, frame: m.Publish) -> None:
        try:
            size_bytes = check_publish(frame, self._node.limits.message_bytes)
            topic = self._node.owned(frame.topic, frame.topic_id)
        except PubsubError as error:
            connection.refuse(frame.id, error)
            return
        count = len(frame.payloads)

        def done(first_offset: int, duplicate: bool, error: PubsubError | None) -> None:
            if error is not None:
                connection.refuse(frame.id, error)
                return
            if not duplicate:
                self._node.published_messages += count
            connection.send(encode_frame(m.Published(frame.id, first_offset, duplicate)))

        self._node.store.append(
            Append(
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
        )
        if self._node.store.full:
            connection.hold_reading("storage")
            self._node.store.when_room(lambda: connection.release_reading("storage"))


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
    for name, column in (("keys", frame.keys), ("headers", frame.headers)):
        if column is not None and len(column) != count:
            raise InvalidRequestError(f"a batch of {count} messages has {len(column)} {name}")
    if not (0 <= frame.producer < 2**63 and 0 <= frame.sequence < 2**62):
        raise InvalidRequestError("producer and sequence are not negative and fit 63 bits")
    if None in frame.payloads:
        raise InvalidRequestError("a payload is missing: null is kept for removed keys")
    if frame.headers is not None:
        for text in frame.headers:
            decode_headers(text)
    size_bytes = column_bytes(frame.payloads) + column_bytes(frame.keys) + column_bytes(frame.headers)
    if size_bytes > message_bytes:
        _check_each(frame, message_bytes)
    return size_bytes


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
