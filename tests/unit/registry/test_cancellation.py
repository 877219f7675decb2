import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from pubsub.registry import Heartbeat, RedisRegistry
from pubsub.registry.cancellation import keep_cancellation


async def loses_a_cancellation(started: asyncio.Event) -> None:
    started.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return  # as asyncio.wait_for of Python 3.11 does now and then


@pytest.mark.parametrize("error", [None, ConnectionError("lost")])
async def test_a_cancellation_that_a_library_swallowed_stops_the_task_all_the_same(
    error: Exception | None,
) -> None:
    started = asyncio.Event()

    async def call() -> None:
        with keep_cancellation():
            await loses_a_cancellation(started)
            if error is not None:
                raise error

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
            with keep_cancellation():
                await asyncio.sleep(0)
            cleaned.set()

    task = asyncio.create_task(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned.is_set()


async def test_a_task_that_nobody_cancelled_goes_on() -> None:
    with keep_cancellation():
        await asyncio.sleep(0)


async def test_an_error_is_passed_on() -> None:
    with pytest.raises(ConnectionError), keep_cancellation():
        raise ConnectionError


class Swallowing:
    """A redis-py client of which one call in a row swallows the cancellation that it waits for, and then succeeds."""

    def __init__(self, swallowing: int) -> None:
        self.waits = asyncio.Event()
        self._calls = 0
        self._swallowing = swallowing

    async def _turn(self) -> None:
        if self._calls == self._swallowing:
            await loses_a_cancellation(self.waits)
        else:
            await asyncio.sleep(0)
        self._calls += 1

    def pipeline(self, transaction: bool) -> "Swallowing":
        self._commands: list[object] = []
        return self

    def execute_command(self, *command: object) -> None:
        self._commands.append(command[0])

    async def execute(self, raise_on_error: bool) -> list[Any]:
        await self._turn()
        return [{"run_id": "1"} if name == "INFO" else ["0" * 32, "1", "1", "1"] for name in self._commands]

    def pubsub(self) -> "Swallowing":
        return self

    async def subscribe(self, channel: str) -> None:
        await self._turn()

    async def ping(self) -> None:
        await self._turn()

    async def get_message(self, timeout: float) -> dict[str, str] | None:
        await self._turn()
        return {"type": "pong"} if timeout else None

    async def aclose(self) -> None:
        await asyncio.sleep(0)


async def watch(registry: RedisRegistry) -> None:
    async with aclosing(registry.watch()) as batches:
        async for _ in batches:
            pass


@pytest.mark.parametrize("swallowing", [0, 1])
@pytest.mark.parametrize(
    "call",
    [
        lambda registry: registry.generation(1),
        lambda registry: registry.heartbeat([Heartbeat(name="a", incarnation="1.1")], 6.0, 1),
        watch,
    ],
    ids=["generation", "heartbeat", "watch"],
)
async def test_who_calls_the_registry_for_ever_can_be_stopped_at_any_of_its_commands(
    call: Callable[[RedisRegistry], Awaitable[object]], swallowing: int
) -> None:
    client: Any = Swallowing(swallowing)
    registry = RedisRegistry("redis://127.0.0.1:1/0")
    registry._use(client)

    async def run() -> None:
        while True:
            await call(registry)
            await asyncio.sleep(0)

    task = asyncio.create_task(run())
    await client.waits.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()
