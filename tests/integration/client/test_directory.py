"""The way to an index: one attempt for all who want it, none that outlasts a caller's time or its directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import pubsub
from pubsub.client.directory import Directory
from pubsub.config import ClientSettings, Limits
from pubsub.model import Address
from pubsub.protocol import messages as m
from pubsub.protocol.handshake import hello
from tests.waiting import wait_until

PATIENT = 60.0
"""Longer than any test takes."""
SECONDS = 10.0


class SilentIndex:
    """Accepts connections, and never says a word."""

    def __init__(self) -> None:
        self.accepted = 0
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await reader.read(-1)
        except ConnectionError:
            pass
        finally:
            self.lost += 1
            writer.close()

    def directory(self, connect_seconds: float) -> Directory:
        settings = ClientSettings(connect_seconds=connect_seconds)
        return Directory([self.address], hello("client", "test"), Limits(), settings)

    address: Address


@pytest.fixture
async def silent() -> AsyncIterator[SilentIndex]:
    index = SilentIndex()
    server = await asyncio.start_server(index.serve, "127.0.0.1", 0)
    index.address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    yield index
    server.close()
    await server.wait_closed()


async def test_all_who_want_the_link_share_an_attempt_and_its_failure(silent: SilentIndex) -> None:
    directory = silent.directory(connect_seconds=0.2)
    results = await asyncio.gather(*(directory.link() for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {pubsub.IndexUnavailableError}
    assert silent.accepted == 1
    with pytest.raises(pubsub.IndexUnavailableError, match=r"did not answer within 0\.2 s"):
        await directory.link()
    assert silent.accepted == 2
    await directory.close()


async def test_one_who_gives_up_does_not_take_the_attempt_from_the_others(silent: SilentIndex) -> None:
    directory = silent.directory(connect_seconds=0.2)
    impatient, patient = (asyncio.create_task(directory.link(), name="link") for _ in range(2))
    await wait_until(lambda: silent.accepted == 1)
    impatient.cancel()
    with pytest.raises(pubsub.IndexUnavailableError):
        await patient
    assert impatient.cancelled()
    assert silent.accepted == 1
    await directory.close()


async def test_no_request_waits_for_the_link_beyond_its_time(silent: SilentIndex) -> None:
    directory = silent.directory(connect_seconds=PATIENT)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(pubsub.IndexUnavailableError, match=f"not in time: {silent.address}"):
            await directory.request(m.Peers, timeout_seconds=0.2)
    await directory.close()


async def test_closing_ends_the_attempt_and_tells_those_who_wait_for_it(silent: SilentIndex) -> None:
    directory = silent.directory(connect_seconds=PATIENT)
    waiting = [
        asyncio.create_task(directory.link(), name="link"),
        asyncio.create_task(directory.request(m.Peers, PATIENT), name="request"),
    ]
    await wait_until(lambda: silent.accepted == 1)
    async with asyncio.timeout(SECONDS):
        await directory.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [pubsub.ClosedError] * 2
    await wait_until(lambda: silent.lost == 1, description="the connection is given up")
    with pytest.raises(pubsub.ClosedError):
        await directory.link()


async def test_whoever_watches_while_the_client_closes_sees_a_quiet_end(silent: SilentIndex) -> None:
    settings = ClientSettings(connect_seconds=PATIENT)
    client = pubsub.Client(str(silent.address), settings=settings)
    await client.open()

    async def watch() -> list[pubsub.Change]:
        return [change async for change in client.watch()]

    watching = asyncio.create_task(watch(), name="watch")
    await wait_until(lambda: silent.accepted == 1)
    async with asyncio.timeout(SECONDS):
        await client.close()
        assert await watching == []
