"""Links by address: shared, opened once, opened anew after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pubsub.errors import ClosedError, ConnectionLostError
from pubsub.model import Address
from pubsub.net.pool import LinkPool
from pubsub.net.server import Server
from tests.integration.net.conftest import GREETING, LIMITS, address_of
from tests.waiting import wait_until


@pytest.fixture
async def pool() -> AsyncIterator[LinkPool]:
    pool = LinkPool(GREETING, LIMITS, 3.0)
    yield pool
    await pool.close()


async def test_those_who_ask_at_once_share_one_attempt_and_one_link(pool: LinkPool, server: Server):
    links = await asyncio.gather(*(pool.get(address_of(server)) for _ in range(20)))
    assert len(set(map(id, links))) == 1
    assert len(server.connections) == 1
    assert await pool.get(address_of(server)) is links[0]


async def test_one_who_gives_up_does_not_take_the_attempt_from_the_others(pool: LinkPool, server: Server):
    impatient = asyncio.create_task(pool.get(address_of(server)))
    patient = asyncio.create_task(pool.get(address_of(server)))
    await asyncio.sleep(0)
    impatient.cancel()
    link = await patient
    assert link.open
    assert impatient.cancelled() or impatient.done()


async def test_all_who_share_an_attempt_learn_that_it_failed_and_the_next_one_tries_anew(
    pool: LinkPool, free_port: int
):
    address = Address("127.0.0.1", free_port)
    results = await asyncio.gather(*(pool.get(address) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionLostError] * 3
    assert pool._attempts == {}
    with pytest.raises(ConnectionLostError):
        await pool.get(address)


async def test_a_failure_that_nobody_waits_for_any_more_is_no_warning(pool: LinkPool, free_port: int):
    waiting = asyncio.create_task(pool.get(Address("127.0.0.1", free_port)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await wait_until(lambda: not pool._attempts)


async def test_a_lost_link_is_replaced_by_a_new_one(pool: LinkPool, server: Server):
    first = await pool.get(address_of(server))
    (connection,) = server.connections
    connection.abort()
    await first.closed()
    second = await pool.get(address_of(server))
    assert second is not first
    assert second.open


async def test_closing_closes_the_links_and_ends_attempts(server: Server):
    pool = LinkPool(GREETING, LIMITS, 3.0)
    link = await pool.get(address_of(server))
    attempt = asyncio.create_task(pool.get(Address("127.0.0.1", 1)))
    await asyncio.sleep(0)
    await pool.close()
    assert not link.open
    (result,) = await asyncio.gather(attempt, return_exceptions=True)
    assert isinstance(result, ClosedError | ConnectionLostError)
    with pytest.raises(ClosedError):
        await pool.get(address_of(server))
    await pool.close()
    await wait_until(lambda: not server.connections)


async def test_whoever_waits_for_a_link_when_the_pool_closes_is_told_and_not_cancelled():
    accepted = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read(-1)
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    address = Address("127.0.0.1", silent.sockets[0].getsockname()[1])
    pool = LinkPool(GREETING, LIMITS, 60.0)
    waiting, cancelled = (asyncio.create_task(pool.get(address), name="get") for _ in range(2))
    await accepted.wait()
    cancelled.cancel()
    await pool.close()
    results = await asyncio.gather(waiting, cancelled, return_exceptions=True)
    assert [type(result) for result in results] == [ClosedError, asyncio.CancelledError]
    silent.close()
    await silent.wait_closed()
