"""A process that stores messages from several producers until it is killed, and says what has been acknowledged.

`python -m tests.integration.storage.crashing DIRECTORY LIFE`: a line of "offset payload" on stdout for each
message, at the moment of its acknowledgement.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from pubsub.config import StorageSettings
from pubsub.storage.store import Store
from tests.integration.storage.stores import copy_of, submit

PRODUCERS = 5


async def produce(store: Store, producer: int, life: int) -> None:
    topic = store.topic("t")
    draw = random.Random(life * PRODUCERS + producer)
    sequence = 0
    while True:
        sent = []
        for _ in range(draw.randint(1, 4)):
            payloads = [b"%d-%d-%d" % (life, producer, sequence + n) for n in range(draw.randint(1, 40))]
            answer = submit(
                store, topic, payloads, producer=life * PRODUCERS + producer + 1, sequence=sequence
            )
            sequence += len(payloads)
            sent.append((payloads, answer))
        for payloads, answer in sent:
            first, _ = await answer
            os.write(1, b"".join(b"%d %s\n" % (first + n, payload) for n, payload in enumerate(payloads)))


async def main(directory: Path, life: int) -> None:
    store = await Store.open(directory, "alice", StorageSettings(checkpoint_bytes=100_000))
    await store.create(copy_of(1, "t"))
    async with asyncio.TaskGroup() as group:
        for producer in range(PRODUCERS):
            group.create_task(produce(store, producer, life), name=f"producer {producer}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
