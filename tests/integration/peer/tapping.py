"""Subscriptions frame by frame, and what is published for them: for tests of a peer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import pubsub
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes
from pubsub.protocol.codec import encode_frame
from tests.integration.peer.grouping import SECONDS, TOPIC
from tests.integration.storage.stores import append

WIDE = 1 << 40
OpenLink = Callable[..., Awaitable[Link]]


class Tap:
    """A subscription frame by frame. It checks that the window is kept and that offsets are dense as they come."""

    def __init__(self, link: Link, number: int, window_messages: int, window_bytes: int) -> None:
        self.link = link
        self.number = number
        self.position = -1
        self.payloads: list[bytes | None] = []
        self.frames: list[m.Batch] = []
        self.ended: m.Ended | None = None
        self.after_frame: Callable[[m.Batch], None] = lambda batch: None
        self._messages, self._bytes = window_messages, window_bytes
        self._window = (window_messages, window_bytes)
        link.streams[number] = self._take

    async def start(self, topic: str = TOPIC, start: int = m.EARLIEST, topic_id: int = 0) -> Tap:
        messages, size_bytes = self._window
        subscribed = await self.link.request(
            m.Subscribe(
                id=self.link.next_id(),
                subscription=self.number,
                topic=topic,
                topic_id=topic_id,
                start=start,
                window_messages=messages,
                window_bytes=size_bytes,
            ),
            SECONDS,
        )
        assert isinstance(subscribed, m.Subscribed)
        if self.position < 0:
            self.position = subscribed.position
        return self

    def _take(self, frame: m.Deliver | m.Ended) -> None:
        if isinstance(frame, m.Ended):
            self.ended = frame
            return
        batch = frame.batch
        count, size_bytes = len(batch.payloads), batch_bytes(batch)
        idle = self._messages == self._window[0]
        assert count <= self._messages
        assert size_bytes <= self._bytes or (idle and count == 1), "more than the window allows"
        self._messages -= count
        self._bytes -= size_bytes
        if self.position < 0:
            self.position = batch.first_offset
        assert (batch.first_offset, batch.offsets) == (self.position, None), "skipped or repeated"
        self.position += count
        self.payloads += batch.payloads
        self.frames.append(batch)
        self.after_frame(batch)

    @property
    def outstanding(self) -> int:
        return self._window[0] - self._messages

    def credit(self, messages: int, size_bytes: int) -> None:
        self._messages += messages
        self._bytes += size_bytes
        self.link.send(encode_frame(m.Credit(self.number, messages, size_bytes)))

    def credit_everything(self, _: m.Batch | None = None) -> None:
        """Give back all that is outstanding."""
        messages, size_bytes = self._window
        self.credit(messages - self._messages, size_bytes - self._bytes)


async def tap(link: Link, number: int = 1, messages: int = WIDE, size_bytes: int = WIDE, **start: Any) -> Tap:
    return await Tap(link, number, messages, size_bytes).start(**start)


async def publish(peer: pubsub.Peer, payloads: list[bytes], topic: str = TOPIC, keys: Any = None) -> int:
    store = peer._node.store
    return await append(store, store.topic(topic), payloads, keys=keys)


def count_reads(peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets from which the disk is read, from now on."""
    starts: list[int] = []
    read = peer._node.store.read

    def counting(topic: Any, start: int, *bounds: Any) -> Any:
        starts.append(start)
        return read(topic, start, *bounds)

    monkeypatch.setattr(peer._node.store, "read", counting)
    return starts
