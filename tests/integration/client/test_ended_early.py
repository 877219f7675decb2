"""A stream that its owner ends, or that is lost, in the moment in which it has begun again: it begins once more."""

from __future__ import annotations

import asyncio

import pytest

import pubsub
from pubsub.errors import NotOwnerError
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from tests.integration.client.fake_owner import FakeOwner
from tests.waiting import wait_until


class HastyOwner(FakeOwner):
    """Ends the second stream as soon as it has answered, or even before."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns
        """After so many turns of the event loop; those of the answer are among them."""

    async def on_join(self, connection: ServerConnection, frame: m.JoinGroup) -> m.Frame:
        reply = await super().on_join(connection, frame)
        if len(self.joins) == 2:
            self._later(self.turns)
        return reply

    def _later(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._later, turns - 1)
        else:
            self.end(NotOwnerError("it has been handed over"))


@pytest.mark.parametrize("turns", range(5))
async def test_a_stream_that_ends_as_soon_as_it_has_begun_again_is_begun_once_more(turns: int) -> None:
    async with (
        HastyOwner(turns) as owner,
        pubsub.Client(owner.address) as client,
        client.subscribe("jobs", group="workers") as messages,
    ):
        owner.end(NotOwnerError("it has been handed over"))
        await wait_until(lambda: len(owner.joins) == 3, description="it joins once more")
        owner.give((5, 1))
        assert (await anext(messages)).offset == 5
        assert len(owner.joins) == 3
