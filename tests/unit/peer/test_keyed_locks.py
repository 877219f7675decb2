"""A lock for each key: one at a time, also where one lets go while another waits and a third comes."""

import asyncio

import pytest

from pubsub.peer.keyed_locks import KeyedLocks


async def test_one_holds_a_lock_at_a_time_and_nothing_is_kept_of_it():
    locks = KeyedLocks()
    inside, most, done = 0, 0, 0

    async def hold(turns_before: int) -> None:
        nonlocal inside, most, done
        for _ in range(turns_before):
            await asyncio.sleep(0)
        async with locks.hold(7):
            inside += 1
            most = max(most, inside)
            for _ in range(3):
                await asyncio.sleep(0)
            inside -= 1
            done += 1

    await asyncio.gather(*(hold(turns) for turns in range(20)))
    assert (most, done) == (1, 20)
    assert locks._locks == locks._users == {}


async def test_who_gives_up_waiting_leaves_nothing_and_other_keys_are_free():
    locks = KeyedLocks()
    async with locks.hold(1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), locks.hold(1):
                raise AssertionError("two hold it")
        async with locks.hold(2):
            assert set(locks._locks) == {1, 2}
    assert locks._locks == locks._users == {}
