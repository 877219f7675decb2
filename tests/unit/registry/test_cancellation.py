import asyncio

import pytest

from pubsub.registry.cancellation import cancellations, raise_lost_cancellation


async def loses_a_cancellation(started: asyncio.Event) -> None:
    started.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return  # as asyncio.wait_for of Python 3.11 does now and then


async def test_a_cancellation_that_a_library_swallowed_stops_the_task_all_the_same() -> None:
    started = asyncio.Event()

    async def call() -> None:
        before = cancellations()
        await loses_a_cancellation(started)
        raise_lost_cancellation(before)

    task = asyncio.create_task(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_was_cancelled_earlier_may_still_call_the_registry_to_clean_up() -> None:
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            before = cancellations()
            await asyncio.sleep(0)
            raise_lost_cancellation(before)
            cleaned.set()

    task = asyncio.create_task(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned.is_set()


async def test_a_task_that_nobody_cancelled_goes_on() -> None:
    raise_lost_cancellation(cancellations())
