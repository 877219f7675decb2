"""Who is far behind gives way to those who publish: for a while after each of them is seen, and by a steady pace."""

import asyncio
from types import SimpleNamespace
from typing import Any

from pubsub.peer.delivery import CROWDED_READS, FAR_BEHIND, Delivery
from pubsub.peer.feeding import Feeding


def made(kind: Any, behind: int) -> tuple[Any, SimpleNamespace]:
    """A delivery that has so many messages yet to come, and its store."""
    store = SimpleNamespace(queued_bytes=0)
    delivery = object.__new__(kind)
    delivery._store, delivery._crowded, delivery._paced_to = store, 0, 0.0
    delivery.position, delivery.feed = 0, SimpleNamespace(topic=SimpleNamespace(next_offset=behind))
    return delivery, store


def test_nobody_gives_way_to_nobody() -> None:
    delivery, _ = made(Delivery, 10 * FAR_BEHIND)
    assert not any(delivery._gives_way() for _ in range(20))


def test_one_who_is_near_the_end_gives_way_to_nobody() -> None:
    delivery, store = made(Delivery, FAR_BEHIND)
    store.queued_bytes = 1
    assert not delivery._gives_way()


def test_a_publisher_who_is_seen_is_given_way_for_a_few_reads() -> None:
    delivery, store = made(Delivery, FAR_BEHIND + 1)
    store.queued_bytes = 1
    assert delivery._gives_way()
    store.queued_bytes = 0
    assert [delivery._gives_way() for _ in range(CROWDED_READS)] == [True] * (CROWDED_READS - 1) + [False]
    store.queued_bytes = 1
    assert delivery._gives_way()


async def test_a_copy_keeps_its_pace_however_long_the_reads_take() -> None:
    loop = asyncio.get_running_loop()
    feeding, _ = made(Feeding, FAR_BEHIND + 1)
    began = loop.time()
    for took_seconds in (0.0, 0.03, 0.0, 0.01):
        read_began = loop.time()
        await asyncio.sleep(took_seconds)
        await feeding._keep_pace(read_began, 0.05)
    assert loop.time() - began >= 4 * 0.05


async def test_time_in_which_nothing_was_read_is_not_made_up_for() -> None:
    loop = asyncio.get_running_loop()
    feeding, _ = made(Feeding, FAR_BEHIND + 1)
    feeding._paced_to = loop.time() - 100
    began = loop.time()
    await feeding._keep_pace(began, 0.05)
    assert loop.time() - began >= 0.05
