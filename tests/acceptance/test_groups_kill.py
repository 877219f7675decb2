"""kill -9 of a peer under load of a group: no confirmed work is given out again, and nothing is lost.

Members acknowledge, nack at once and with delays, let leases run out, and never manage the poisoned messages, which
so become dead letters. The peer is killed at random moments all the while.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pubsub
from pubsub.config import ClientSettings
from tests.ports import choose_free_port
from tests.processes import Command
from tests.waiting import wait_until

KILLS = 20
MEMBERS = 4
POISONED_EACH = 25
PUBLISHED_BETWEEN_KILLS = 200
LEASE_SECONDS = 1.0


class Ledger:
    """What each message has been through, as the members and the publisher know it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.published: set[bytes] = set()
        """Of which the publish was acknowledged."""
        self.acknowledging: set[bytes] = set()
        """An ack was sent: it counts or not."""
        self.confirmed: set[bytes] = set()
        """An ack was confirmed."""
        self.given = 0
        self.wrong: list[str] = []
        self.outcomes: Counter[str] = Counter()

    async def handle(self, message: pubsub.GroupMessage) -> None:
        payload = message.payload or b""
        self.given += 1
        if payload in self.confirmed:
            self.wrong.append(f"{message} was given out after its acknowledgement had been confirmed")
        if self.chance.random() < 0.3:
            await asyncio.sleep(self.chance.uniform(0, 0.02))
        choice = self.chance.random()
        try:
            if is_poisoned(payload):
                await message.nack(self.chance.choice([0, 0.05]))
            elif choice < 0.80:
                self.acknowledging.add(payload)
                await message.ack()
                self.confirmed.add(payload)
                self.outcomes["acknowledged"] += 1
            elif choice < 0.90:
                await message.nack(self.chance.choice([0, 0.01, 0.2]))
                self.outcomes["nacked"] += 1
            elif choice < 0.98:
                await message.nack()
                self.outcomes["nacked, with the group's backoff"] += 1
            else:
                await asyncio.sleep(LEASE_SECONDS / 2)
                await message.extend()
                self.acknowledging.add(payload)
                await message.ack()
                self.confirmed.add(payload)
                self.outcomes["acknowledged after a while"] += 1
        except pubsub.LateAcknowledgementError:
            self.outcomes["late"] += 1


def is_poisoned(payload: bytes) -> bool:
    return int(payload.partition(b":")[2]) % POISONED_EACH == 0


async def test_no_confirmed_work_is_given_out_again_and_none_is_lost_when_the_peer_is_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random(20261125)
    ledger = Ledger(chance)
    index_address = f"127.0.0.1:{choose_free_port()}"
    registry_address = f"127.0.0.1:{choose_free_port()}"
    index = Command(
        *("index", "serve", "--listen", index_address, "--registry-listen", registry_address, "--ttl", "1"),
        cwd=tmp_path,
    )
    peer = Command("peer", "serve", "alice", "--data", "alice", cwd=tmp_path, index=index_address)
    settings = ClientSettings(timeout_seconds=60, backoff_most_seconds=0.2)
    async with (
        index,
        peer,
        pubsub.Client(index_address, settings=settings) as one,
        pubsub.Client(index_address, settings=settings) as two,
    ):
        await one.create_topic("jobs")
        members = [
            client.subscribe(
                "jobs",
                group="workers",
                max_in_flight=50,
                lease_seconds=LEASE_SECONDS,
                max_attempts=5,
                backoff_seconds=0.05,
            )
            for client, _ in zip((one, two) * MEMBERS, range(MEMBERS), strict=False)
        ]
        for member in members:
            await member.open()
        running = [
            asyncio.create_task(member.run(ledger.handle, concurrency=20), name=f"member {n}")
            for n, member in enumerate(members)
        ]
        for kill in range(KILLS):
            batch = [b"%d:%d" % (kill, n) for n in range(PUBLISHED_BETWEEN_KILLS)]
            publishing = asyncio.create_task(one.publish_many("jobs", batch))
            before = ledger.given
            await asyncio.sleep(chance.uniform(0.02, 0.4))
            await peer.kill()
            await peer.start()
            await publishing
            ledger.published |= set(batch)
            await wait_until(lambda before=before: ledger.given > before + MEMBERS, 30)  # type: ignore[misc]
            assert not [task for task in running if task.done()]

        async def all_done() -> bool:
            info = await one.group("jobs", "workers")  # what is on its way to the dead letters counts as dead
            return info.lag == 0 and info.dead == len(await one.query("jobs.dead", limit=10**6))

        await wait_until(all_done, 90)
        for member in members:
            await member.close()
        await asyncio.gather(*running)
        dead = [message.payload or b"" for message in await one.query("jobs.dead", limit=10**6)]
        info = await one.group("jobs", "workers")

    assert ledger.wrong == []
    assert len(dead) == len(set(dead)) == info.dead
    assert ledger.confirmed.isdisjoint(dead)
    assert ledger.published - ledger.acknowledging - set(dead) == set()
    assert {payload for payload in ledger.published if is_poisoned(payload)} <= set(dead)
    assert ledger.outcomes["acknowledged"] > KILLS * PUBLISHED_BETWEEN_KILLS / 2
    assert ledger.outcomes["late"] > 0  # the kills did hit deliveries
