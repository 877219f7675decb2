"""The load: publishers and subscribers of real clients, which tell a history what they asked for and were told."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import pubsub
from tests.torture.cluster import message_of
from tests.torture.history import Broken, History, Outcome, Publish, Read, message_name

PUBLISH_SECONDS = 20.0
"""Then the outcome is unknown, and the publisher goes on under another name."""
BURST = 8
MOST_BYTES = 2000


class Workload:
    """Publishers and subscribers of all topics; `stop` ends the first, `close` the others."""

    def __init__(self, indexes: Sequence[str], topics: Sequence[str], history: History, seed: int) -> None:
        self._indexes = list(indexes)
        self._history = history
        self._chance = random.Random(seed)
        self._stopped = asyncio.Event()
        self.topics = topics
        self.acknowledged_at: dict[str, float] = defaultdict(float)
        """When a topic's last publish was acknowledged; seconds of the history."""
        self.end: dict[str, int] = defaultdict(int)
        """One more than the greatest acknowledged offset of a topic."""
        self.read_to: dict[tuple[str, str], int] = {}
        """(topic, subscriber) -> the offset after the last one that it was given."""
        self._publishers: list[asyncio.Task[None]] = []
        self._subscribers: list[asyncio.Task[None]] = []

    def start(self, *, publishers: int, subscribers: int) -> None:
        """Begin; so many of each for each topic."""
        for topic in self.topics:
            for number in range(publishers):
                name = f"p{number}-{topic}"
                self._publishers.append(asyncio.create_task(self._publish(name, topic), name=name))
            for number in range(subscribers):
                name = f"s{number}-{topic}"
                self.read_to[topic, name] = 0
                self._subscribers.append(asyncio.create_task(self._subscribe(name, topic), name=name))

    async def stop(self) -> None:
        """No more publishes; returns when the outcome of each is known, or known to be unknown."""
        self._stopped.set()
        await asyncio.gather(*self._publishers)

    async def close(self) -> None:
        self._stopped.set()
        tasks = [*self._publishers, *self._subscribers]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                self._history.add(Broken(client="load", error=repr(outcome)))

    async def publish_last(self, topic: str, seconds: float) -> None:
        """One more, which must succeed: the topic is not stuck."""
        async with pubsub.Client(self._indexes, timeout_seconds=seconds) as client:
            if not await self._publish_one(client, f"last-{topic}", topic, 0):
                self._history.add(Broken(client=topic, error=f"stuck: takes no publish in {seconds:g} s"))

    async def _publish(self, name: str, topic: str) -> None:
        generation = 0
        while not self._stopped.is_set():
            generation += 1
            async with pubsub.Client(self._indexes, timeout_seconds=PUBLISH_SECONDS) as client:
                await self._publish_as(client, f"{name}-{generation}", topic)

    async def _publish_as(self, client: pubsub.Client, name: str, topic: str) -> None:
        """Until stopped, or until an outcome is unknown."""
        number, told = 0, [True]
        while all(told) and not self._stopped.is_set():
            count = self._chance.randint(1, BURST)
            burst = [self._publish_one(client, name, topic, number + n) for n in range(count)]
            told = await asyncio.gather(*burst)
            number += count
            await asyncio.sleep(self._chance.uniform(0, 0.1))

    async def _publish_one(self, client: pubsub.Client, name: str, topic: str, number: int) -> bool:
        self._tell(name, topic, number, "invoke")
        padding = "x" * self._chance.randrange(MOST_BYTES)
        try:
            offset = await client.publish(topic, f"{message_name(name, number)} {padding}", key=name)
        except pubsub.TimeoutExpiredError as error:
            self._tell(name, topic, number, "unknown", error=str(error))
            return False
        except pubsub.PubsubError as error:
            told: Outcome = "fail" if isinstance(error, pubsub.TooFewCopiesError) else "unknown"
            self._tell(name, topic, number, told, error=f"{error.code}: {error}")
            if not error.retriable:
                self._history.add(Broken(client=name, error=f"publish {number}: {error.code}: {error}"))
            return False
        self._tell(name, topic, number, "ok", offset=int(offset))
        self.acknowledged_at[topic] = self._history.seconds
        self.end[topic] = max(self.end[topic], offset + 1)
        return True

    def _tell(
        self,
        client: str,
        topic: str,
        number: int,
        outcome: Outcome,
        *,
        offset: int | None = None,
        error: str = "",
    ) -> None:
        event = Publish(
            client=client, topic=topic, number=number, outcome=outcome, offset=offset, error=error
        )
        self._history.add(event)

    async def _subscribe(self, name: str, topic: str) -> None:
        """Read for ever; one that was told an error says so, and goes on where it was."""
        while True:
            async with pubsub.Client(self._indexes, timeout_seconds=60) as client:
                try:
                    async with client.subscribe(topic, start=self.read_to[topic, name]) as messages:
                        while batch := await messages.next_batch():
                            self._read(name, topic, batch)
                except pubsub.PubsubError as error:
                    self._history.add(Broken(client=name, error=f"subscribe: {error.code}: {error}"))
                    await asyncio.sleep(1)

    def _read(self, name: str, topic: str, batch: list[pubsub.Message]) -> None:
        offsets = [message.offset for message in batch]
        names = [message_of(message.payload) for message in batch]
        self._history.add(Read(client=name, topic=topic, offsets=offsets, messages=names))
        self.read_to[topic, name] = offsets[-1] + 1
