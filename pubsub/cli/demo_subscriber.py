"""A subscriber of the demo, a process of its own: `python -m pubsub.cli.demo_subscriber INDEX TOPIC=OFFSET ...`.

It checks that the readings of each topic come in their order, each once, and prints what it has counted as one
JSON line whenever that has changed: {topic: Tally}. The first line, before any reading, says that it is ready.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from pubsub.cli.logs import set_up_logging
from pubsub.cli.run import announce, on_stop_signal, run
from pubsub.client.client import Client
from pubsub.client.subscription import Subscription

REPORT_SECONDS = 0.1


class Numbered(msgspec.Struct):
    """What a subscriber looks at in a reading: its number within its topic, from 0 on."""

    n: int


class Tally(msgspec.Struct):
    """What came of one topic."""

    received: int = 0
    doubled: int = 0
    """Came although their number had come, or had been passed over."""
    skipped: int = 0
    """Were passed over when a later one came."""
    next: int = 0

    def count(self, number: int) -> None:
        """Take in one reading."""
        self.received += 1
        if number < self.next:
            self.doubled += 1
            return
        self.skipped += number - self.next
        self.next = number + 1


decode_tallies = msgspec.json.Decoder(dict[str, Tally]).decode


async def _count(messages: Subscription, tally: Tally) -> None:
    decode = msgspec.json.Decoder(Numbered).decode
    while True:
        for message in await messages.next_batch():
            tally.count(decode(message.payload or b"").n)


async def _report(tallies: dict[str, Tally]) -> None:
    said = b""
    while True:
        line = msgspec.json.encode(tallies)
        if line != said:
            announce(line.decode())
            said = line
        await asyncio.sleep(REPORT_SECONDS)


async def _subscribe(index: str, starts: dict[str, int]) -> None:
    tallies = {topic: Tally() for topic in starts}
    async with Client(index) as client:
        subscriptions = [client.subscribe(topic, start=start) for topic, start in starts.items()]
        for subscription in subscriptions:
            await subscription.open()
        async with asyncio.TaskGroup() as tasks:
            for subscription in subscriptions:
                tasks.create_task(
                    _count(subscription, tallies[subscription.topic]),
                    name=f"pubsub: count {subscription.topic}",
                )
            tasks.create_task(_report(tallies), name="pubsub: report")


async def _until_stopped(index: str, starts: dict[str, int]) -> None:
    working = asyncio.create_task(_subscribe(index, starts), name="pubsub: demo subscriber")
    on_stop_signal(working.cancel)
    await asyncio.wait((working,))
    if not working.cancelled():
        working.result()


if __name__ == "__main__":
    set_up_logging(0)
    run(
        _until_stopped(
            sys.argv[1], {topic: int(offset) for topic, offset in (a.split("=") for a in sys.argv[2:])}
        )
    )
