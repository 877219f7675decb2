"""A subscription that begins again while the application takes what it has: its window is whole again afterwards."""

from __future__ import annotations

import asyncio

import pubsub
from pubsub.config import ClientSettings
from pubsub.errors import NotOwnerError
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from tests.integration.client.fake_owner import FakeOwner
from tests.waiting import wait_until

WINDOW = 4


class HesitantOwner(FakeOwner):
    """Begins a stream when a test says so; credit for a stream that it has not begun it drops, as owners do."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribes: list[m.Subscribe] = []
        self.begins = asyncio.Event()
        self.begins.set()
        self.begun: set[int] = set()
        self.credits: list[m.Credit] = []
        self.dropped: list[m.Credit] = []
        self.requests = self.requests | {m.Subscribe: self.on_subscribe}
        self.immediate = {m.Credit: self.on_credit}

    async def on_subscribe(self, connection: ServerConnection, frame: m.Subscribe) -> m.Frame:
        self.subscribes.append(frame)
        self.connection = connection
        await self.begins.wait()
        self.begun.add(frame.subscription)
        return m.Subscribed(id=frame.id, topic_id=7, epoch=1, position=max(frame.start, 0))

    def on_credit(self, connection: ServerConnection, frame: m.Credit) -> None:
        (self.credits if frame.subscription in self.begun else self.dropped).append(frame)

    def deliver(self, offset: int) -> None:
        assert self.connection is not None
        batch = m.Batch(offset, None, 1_000_000, None, None, [b"%d" % offset])
        self.connection.send_frame(m.Deliver(self.subscribes[-1].subscription, batch))

    def hand_over(self) -> None:
        error = NotOwnerError("it has been handed over")
        assert self.connection is not None
        self.connection.send_frame(m.Ended(self.subscribes[-1].subscription, error.code, error.message))

    def window(self) -> int:
        """How many messages it may have under way in the stream that it began last."""
        last = self.subscribes[-1]
        return last.window_messages + sum(
            c.messages for c in self.credits if c.subscription == last.subscription
        )


async def test_what_is_taken_before_the_stream_has_begun_again_is_given_back_once_it_has() -> None:
    settings = ClientSettings(window_messages=WINDOW)
    async with (
        HesitantOwner() as owner,
        pubsub.Client(owner.address, settings=settings) as client,
        client.subscribe("a.b", start=0) as messages,
    ):
        for offset in range(WINDOW):
            owner.deliver(offset)
        await wait_until(lambda: messages._held_messages == WINDOW)
        owner.begins.clear()
        owner.hand_over()
        await wait_until(lambda: len(owner.subscribes) == 2, description="it subscribes again")
        assert owner.window() == 0
        for offset in range(WINDOW):
            assert (await anext(messages)).offset == offset
        following = asyncio.create_task(anext(messages), name="the next message")
        await asyncio.sleep(0)  # lets it ask for more
        owner.begins.set()
        await wait_until(lambda: owner.window() == WINDOW, description="the whole window is granted")
        assert owner.dropped == []
        owner.deliver(WINDOW)
        assert (await following).offset == WINDOW
