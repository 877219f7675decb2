"""The verbs of `Client` that publish. How messages get to the owner is the lanes' business."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

from pubsub.client.lane import Lane
from pubsub.client.outgoing import (
    Columns,
    Conditions,
    Outgoing,
    check_conditions,
    check_ids_now,
    check_key,
    check_size,
    cut_batches,
    encode_json,
    message_columns,
    one_batch,
    rough_bytes,
)
from pubsub.client.outgoing_batch import BatchWaiter, Waiter
from pubsub.client.routes import Routes
from pubsub.config import ClientSettings, Limits
from pubsub.core.sequence import runs_of
from pubsub.errors import InvalidRequestError, PubsubError, shown
from pubsub.model import Offsets, check_topic_name
from pubsub.protocol.batch import BATCH_MESSAGES, encode_headers

AnyWaiter = Waiter | BatchWaiter

ACKS = {None: 0, "owner": 1, "all": 2}
"""What an application says -> `Publish.acks`."""


class PublishVerbs:
    """Mixed into `Client`."""

    _lanes: dict[str, Lane]
    _routes: Routes
    _settings: ClientSettings
    _limits: Limits

    def _check_open(self) -> None:
        """Raises ClosedError if nothing can be published."""
        raise NotImplementedError

    async def publish(
        self,
        topic: str,
        payload: Outgoing,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        expect_offset: int | None = None,
        delay_seconds: float | None = None,
        deliver_at: datetime | None = None,
        acks: str | None = None,
    ) -> int:
        """Store one message and return its offset. It is on disk when this returns.

        Calls made at the same time share a batch, so many of them at once are cheap. A retry after a lost
        connection never stores the message twice.

        Args:
            payload: Bytes; or text, which goes as UTF-8; or None, which removes the key.
            message_id: An id of your own, up to 200 characters. Published again under the same id within the
                topic's window (2 minutes, see its policy), it is not stored again: its offset is returned.
            expect_offset: Store it only if it gets this offset: nobody has published in between.
            delay_seconds: Hold it for so long. It is on disk when this returns, but not in the log yet: what is
                returned is its schedule id, which `scheduled` lists and `cancel_scheduled` takes.
            deliver_at: Likewise until this time, an aware datetime; one that has passed means now.
            acks: Of a replicated topic: "all" returns once it is committed, on every copy that is in sync; it is the
                default. "owner" once it is on the owner's disk: it may be lost with the owner. What is returned is
                an `Offset`, whose `in_sync` says who has it. Publishes with and without `acks="owner"` keep no
                order among each other unless one is awaited before the next.

        Raises:
            MessageTooLargeError, InvalidRequestError: nothing was sent.
            TooFewCopiesError: fewer than `min_in_sync` copies were in sync until the time was over.
            WrongOffsetError: the log is elsewhere, at `data["next_offset"]`; nothing was stored.
            TopicNotFoundError: there is no such topic.
            TimeoutExpiredError: not acknowledged in time; its text says whether it may have been stored.
        """
        lane = self._lanes.get(topic) if acks is None else None
        lane = lane or self._lane(topic, acks)
        if type(payload) is bytes and key is None and headers is None and message_id is None:
            headers_text, size_bytes = None, len(payload)
        else:
            payload, key, headers_text, message_id = message_columns(
                payload, check_key(key), None if headers is None else encode_headers(headers), message_id
            )
            size_bytes = len(payload or b"") + len(key or "") + len(headers_text or "")
        check_size(size_bytes, self._limits.message_bytes)
        if expect_offset is not None or delay_seconds is not None or deliver_at is not None:
            conditions = check_conditions(expect_offset, delay_seconds, deliver_at)
            columns = _single(payload, key, headers_text, size_bytes, message_id)
            check_ids_now(columns.message_ids, conditions)
            await lane.room()
            return (await lane.add_batch(columns, conditions))[0]
        if lane.full:
            await lane.room()
        return await lane.add(payload, key, headers_text, size_bytes, message_id)

    async def publish_json(self, topic: str, value: Any, **options: Any) -> int:
        """Publish a value as compact JSON in UTF-8: what `json.dumps` takes, but for NaN and infinities.

        No header is added; `message.json()` reads it whatever the headers say.

        Args:
            options: Those of `publish`.

        Raises:
            InvalidRequestError: the value cannot be written as JSON; nothing was sent. Others as `publish`.
        """
        return await self.publish(topic, encode_json(value), **options)

    async def publish_many(
        self,
        topic: str,
        messages: Iterable[Outgoing] | AsyncIterable[Outgoing],
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        atomic: bool = False,
        expect_offset: int | None = None,
        delay_seconds: float | None = None,
        deliver_at: datetime | None = None,
        acks: str | None = None,
    ) -> Offsets:
        """Store messages in their order and return their offsets. All are on disk when this returns.

        Any iterable or async iterable will do, also an endless one: it is read no faster than the owner
        stores. Items are payloads or `NewMessage`; `key` and `headers` hold for those that have none.

        Args:
            atomic: Store all of them or none, at once: no reader ever finds a part of them. They are read to
                their end first: at most 10,000 messages that fit one frame (16 MiB).
            expect_offset: With `atomic`: store them only if the first one gets this offset.
            delay_seconds, deliver_at: As for `publish`; what is returned are schedule ids.
            acks: As for `publish`; `in_sync` of what is returned says who has all of them.

        Raises:
            PubsubError: one failed; no more are read. `acknowledged` of the error holds the offsets of those
                that are stored, `data["index"]` which message it was, where it was one.
        """
        lane = self._lane(topic, acks)
        conditions = check_conditions(expect_offset, delay_seconds, deliver_at)
        if isinstance(messages, bytes | bytearray | memoryview | str) or not isinstance(
            messages, Iterable | AsyncIterable
        ):
            raise InvalidRequestError(
                "publish_many takes several payloads, such as a list; for one use publish"
            )
        if not isinstance(atomic, bool):
            raise InvalidRequestError(f"atomic is True or False, not {shown(atomic)}")
        if atomic:
            return await self._publish_whole(lane, messages, key, headers, conditions)
        if expect_offset is not None:
            raise InvalidRequestError("publish_many takes expect_offset with atomic=True only")
        offsets = Offsets()
        waiting: deque[AnyWaiter] = deque()
        try:
            async with aclosing(self._send_all(lane, messages, key, headers, conditions)) as sent:
                async for waiter in sent:
                    waiting.append(waiter)
                    while waiting and waiting[0].done():
                        _take(waiting, offsets)
            while waiting:
                await waiting[0]
                _take(waiting, offsets)
        except BaseException as error:
            settled = await _settle(waiting, offsets, cancelled=not isinstance(error, PubsubError))
            if isinstance(error, PubsubError):
                error.acknowledged = settled
            raise
        return offsets

    async def _publish_whole(
        self,
        lane: Lane,
        messages: Iterable[Outgoing] | AsyncIterable[Outgoing],
        key: str | None,
        headers: Mapping[str, str] | None,
        conditions: Conditions,
    ) -> Offsets:
        if isinstance(messages, AsyncIterable):
            messages = await _read_whole(messages, self._limits)
        columns = one_batch(messages, key, headers, self._limits)
        offsets = Offsets()
        if columns is not None:
            check_ids_now(columns.message_ids, conditions)
            await lane.room()
            _add(await lane.add_batch(columns, conditions), offsets)
        return offsets

    async def _send_all(
        self,
        lane: Lane,
        messages: Iterable[Outgoing] | AsyncIterable[Outgoing],
        key: str | None,
        headers: Mapping[str, str] | None,
        conditions: Conditions,
    ) -> AsyncGenerator[AnyWaiter, None]:
        if isinstance(messages, AsyncIterable):
            key, text = check_key(key), encode_headers(headers)
            index = 0
            async for message in messages:
                payload, own_key, own_headers, message_id = message_columns(message, key, text)
                size_bytes = len(payload or b"") + len(own_key or "") + len(own_headers or "")
                check_size(size_bytes, self._limits.message_bytes, index)
                await lane.room()
                if conditions.later:
                    columns = _single(payload, own_key, own_headers, size_bytes, message_id)
                    check_ids_now(columns.message_ids, conditions)
                    yield lane.add_batch(columns, conditions)
                else:
                    yield lane.add(payload, own_key, own_headers, size_bytes, message_id)
                index += 1
            return
        for columns in cut_batches(messages, key, headers, self._limits):
            check_ids_now(columns.message_ids, conditions)
            await lane.room()
            yield lane.add_batch(columns, conditions)

    def _lane(self, topic: str, acks: str | None) -> Lane:
        """The way into a topic, one for each condition: a producer's numbers are those of one of them."""
        self._check_open()
        check_topic_name(topic)
        number = check_acks(acks)
        name = topic if acks != "owner" else f"{topic}/owner"  # no topic is called so
        lane = self._lanes.get(name)
        if lane is None:
            lane = Lane(topic, self._routes, self._settings, self._limits, number)
            self._lanes[name] = lane
        return lane


def check_acks(acks: Any) -> int:
    """`Publish.acks` for what an application says.

    Raises:
        InvalidRequestError: it is none of the words.
    """
    if not (acks is None or isinstance(acks, str)) or acks not in ACKS:
        raise InvalidRequestError(f'acks is "owner" or "all", not {shown(acks)}')
    return ACKS[acks]


def _single(
    payload: bytes | None, key: str | None, headers: str | None, size_bytes: int, message_id: str | None
) -> Columns:
    return Columns(
        [payload],
        None if key is None else [key],
        None if headers is None else [headers],
        size_bytes,
        None if message_id is None else [message_id],
    )


async def _read_whole(messages: AsyncIterable[Outgoing], limits: Limits) -> list[Outgoing]:
    """All of them; or as many as are too many for one batch, so that an endless one is refused in time."""
    taken: list[Outgoing] = []
    size_bytes = 0
    async for message in messages:
        taken.append(message)
        size_bytes += rough_bytes(message)
        if len(taken) > BATCH_MESSAGES or size_bytes > limits.frame_bytes:
            break
    return taken


def _add(result: int | Sequence[int], offsets: Offsets) -> None:
    holders = getattr(result, "in_sync", None)
    if holders is not None and len(offsets) == 0:
        offsets.in_sync = holders
    else:
        offsets._had_by(holders)
    if isinstance(result, Offsets):
        for run in result.runs:
            offsets._add(run)
    elif isinstance(result, int):
        offsets._add(range(result, result + 1))
    elif isinstance(result, range):
        offsets._add(result)
    else:
        for first, count in runs_of(result):
            offsets._add(range(first, first + count))


def _take(waiting: deque[AnyWaiter], offsets: Offsets) -> None:
    result = waiting[0].result()  # an error leaves it where it is: `_settle` counts on it
    waiting.popleft()
    _add(result, offsets)


async def _settle(waiting: deque[AnyWaiter], offsets: Offsets, cancelled: bool) -> Offsets:
    """After a failure: wait for the answers that are due (unless cancelled), and count what was stored."""
    if not cancelled and waiting:
        await asyncio.wait(list(waiting))
    for waiter in waiting:
        if not waiter.done():
            waiter.cancel()
        elif not waiter.cancelled() and waiter.exception() is None:
            _add(waiter.result(), offsets)
    return offsets
