import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from pubsub.errors import InternalError, RegistryUnavailableError
from pubsub.index.coalescing import Coalescer
from tests.waiting import wait_until


class Oracle:
    """Doubles numbers, a group at a time, when its gate is open."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, questions: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(questions))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [2 * question for question in questions]


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
async def coalescer(oracle: Oracle) -> AsyncIterator[Coalescer[int, int]]:
    coalescer = Coalescer(oracle, most=3)
    running = asyncio.create_task(coalescer.run())
    yield coalescer
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def asking(coalescer: Coalescer[int, int], *questions: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(coalescer.ask(question)) for question in questions]


async def test_a_question_that_comes_alone_is_asked_at_once(
    oracle: Oracle, coalescer: Coalescer[int, int]
) -> None:
    oracle.gate.set()
    assert await coalescer.ask(4) == 8


async def test_what_arrives_while_a_call_is_under_way_goes_into_the_next_ones(
    oracle: Oracle, coalescer: Coalescer[int, int]
) -> None:
    first = asking(coalescer, 1)
    await wait_until(lambda: oracle.groups == [[1]])
    others = asking(coalescer, 2, 3, 4, 5)
    await asyncio.sleep(0)
    oracle.gate.set()
    assert await asyncio.gather(*first, *others) == [2, 4, 6, 8, 10]
    assert oracle.groups == [[1], [2, 3, 4], [5]]  # at most three in one call


async def test_an_error_reaches_all_of_its_group_and_nobody_else(
    oracle: Oracle, coalescer: Coalescer[int, int]
) -> None:
    oracle.error = RegistryUnavailableError("down", registry="here")
    group = asking(coalescer, 1, 2)
    await wait_until(lambda: oracle.groups == [[1, 2]])
    oracle.gate.set()
    errors = await asyncio.gather(*group, return_exceptions=True)
    assert all(isinstance(e, RegistryUnavailableError) and e.data == {"registry": "here"} for e in errors)
    assert errors[0] is not errors[1]
    oracle.error = None
    assert await coalescer.ask(3) == 6


async def test_a_question_whose_asker_has_gone_is_not_asked(
    oracle: Oracle, coalescer: Coalescer[int, int]
) -> None:
    first = asking(coalescer, 1)
    await wait_until(lambda: oracle.groups == [[1]])
    gone, stays = asking(coalescer, 2, 3)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    oracle.gate.set()
    assert await asyncio.gather(*first, stays) == [2, 6]
    assert oracle.groups == [[1], [3]]


async def test_a_fault_ends_the_loop_and_leaves_nobody_waiting(oracle: Oracle) -> None:
    coalescer = Coalescer(oracle)
    oracle.error = ZeroDivisionError("a bug")
    running = asyncio.create_task(coalescer.run())
    asked = asking(coalescer, 1)
    await wait_until(lambda: oracle.groups == [[1]])
    late = asking(coalescer, 2)
    await asyncio.sleep(0)
    oracle.gate.set()
    with pytest.raises(ZeroDivisionError):
        await running
    for result in await asyncio.gather(*asked, *late, return_exceptions=True):
        assert isinstance(result, InternalError)


async def test_who_asks_after_the_end_is_told_so_and_does_not_wait(oracle: Oracle) -> None:
    coalescer: Coalescer[int, int] = Coalescer(oracle)
    running = asyncio.create_task(coalescer.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(InternalError, match="shutting down"):
        await coalescer.ask(1)
