"""kill -9 of a peer that holds messages for later: each comes once, and not before it is due."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pubsub
from tests.ports import choose_free_port
from tests.processes import Command
from tests.waiting import wait_until

KILLS = 12
PUBLISHERS = 10


async def test_messages_for_later_survive_kills_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(20261125)
    address, registry = f"127.0.0.1:{choose_free_port()}", f"127.0.0.1:{choose_free_port()}"
    index = Command(
        *("index", "serve", "--listen", address, "--registry-listen", registry, "--ttl", "1"), cwd=tmp_path
    )
    peer = Command("peer", "serve", "alice", "--data", "alice", cwd=tmp_path, index=address)
    stop = asyncio.Event()
    due: dict[bytes, datetime] = {}
    cancelled: set[bytes] = set()

    async def publish(client: pubsub.Client, publisher: int) -> None:
        number = 0
        while not stop.is_set():
            payload = b"%d:%d" % (publisher, number)
            number += 1
            at = datetime.now(UTC) + timedelta(seconds=chance.choice([0.0, 0.05, 0.3, 1.0, 3600.0]))
            schedule_id = await client.publish("load", payload, deliver_at=at)
            if at > datetime.now(UTC) + timedelta(minutes=10):
                try:
                    await client.cancel_scheduled("load", schedule_id)
                except (
                    pubsub.ScheduledNotFoundError
                ) as error:  # an attempt of ours, whose answer was lost, did it
                    if "an attempt before this one got no answer" not in str(error):
                        raise
                cancelled.add(payload)
            else:
                due[payload] = at

    async with index, peer, pubsub.Client(address, timeout_seconds=60) as client:
        await client.create_topic("load")

        publishers = [asyncio.create_task(publish(client, n)) for n in range(PUBLISHERS)]
        for _ in range(KILLS):
            before = len(due)
            await asyncio.sleep(chance.uniform(0.02, 0.4))
            await peer.kill()
            await peer.start()
            await wait_until(lambda before=before: len(due) > before, 30)
        stop.set()
        await asyncio.gather(*publishers)

        async def none_is_held() -> bool:
            return (await client.topic("load")).scheduled == 0

        await wait_until(none_is_held)
        found = await client.query("load", limit=10**6)
    payloads = [message.payload or b"" for message in found]
    assert len(payloads) == len(set(payloads))
    assert due.keys() <= set(payloads)
    assert not cancelled & set(payloads)
    assert all(
        message.published_at >= due[message.payload or b""] for message in found if message.payload in due
    )
