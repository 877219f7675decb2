"""What is sent to a Redis that does not answer, and what is not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

import pubsub.registry.commands
from pubsub.errors import RegistryUnavailableError
from pubsub.registry.commands import _PIPELINES, Commands
from pubsub.registry.connections import RedisClient

REPLY_SECONDS = 0.2


class SilentClient:
    """Takes pipelines and never answers."""

    def __init__(self) -> None:
        self.sent = 0

    def pipeline(self, transaction: bool) -> SilentClient:
        return self

    def execute_command(self, *command: object) -> None:
        pass

    async def execute(self, raise_on_error: bool) -> list[Any]:
        self.sent += 1
        await asyncio.Event().wait()
        return []


async def test_what_waits_for_its_turn_is_not_sent_to_a_server_that_has_just_not_answered(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(pubsub.registry.commands, "_BACKOFF_FIRST_SECONDS", 60.0)
    monkeypatch.setattr(pubsub.registry.commands, "_BACKOFF_MOST_SECONDS", 60.0)
    client = SilentClient()
    commands = Commands(cast(RedisClient, client), "somewhere", REPLY_SECONDS)
    first = [asyncio.create_task(commands.run([("PING",)])) for _ in range(_PIPELINES)]
    await asyncio.sleep(REPLY_SECONDS / 4)  # these would have so much time left when it is their turn
    waiting = [asyncio.create_task(commands.run([("PING",)])) for _ in range(50)]
    for call in (*first, *waiting):
        with pytest.raises(RegistryUnavailableError, match="no reply within"):
            await call
    assert client.sent == _PIPELINES
