"""The one door to Redis: runs commands in pipelines, bounded in time, size and number.

Its rules: whatever goes wrong on the way becomes RegistryUnavailableError here and nowhere else. A script
that the server forgot (restart, SCRIPT FLUSH) is sent once more, as text. After a connection failed, calls fail at
once for a moment that grows from one failure to the next (backoff), also those that wait for their turn, so that an
unreachable server costs its callers seconds once and not each time.

A call whose time is up in the very turn of the event loop in which it is sent may not notice (`cancellation`): it then
takes as long again, the library's own limit for a reply.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    NoScriptError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from pubsub.errors import RegistryUnavailableError
from pubsub.registry.cancellation import keep_cancellation
from pubsub.registry.connections import REPLY_SECONDS, RedisClient
from pubsub.registry.scripts import with_text

Command = tuple[str | int, ...]

REDIS_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""All that redis-py raises when it cannot get an answer."""
_LOST = (RedisConnectionError, RedisTimeoutError, RedisClusterException, OSError, TimeoutError)

PIPELINE_COMMANDS = 500
"""Commands in one pipeline; bounds the memory that it takes and for how long Redis serves nobody else."""
_PIPELINES = 8
"""Pipelines under way at once; as many connections are open. More would only queue up inside Redis."""
_BACKOFF_FIRST_SECONDS = 0.05
_BACKOFF_MOST_SECONDS = 1.0
_CLIENT_REPR = re.compile(r" *:? *<redis\..*>", re.DOTALL)
"""How the library's errors about sentinels show a whole client, its connections and options."""
_ERROR_NUMBER = re.compile(r"\[Errno -?\d+\] |\bError -?\d+ (?=connecting to )")


class Commands:
    """Runs commands on a client that somebody else opens and closes."""

    def __init__(
        self,
        client: RedisClient,
        where: str,
        reply_seconds: float = REPLY_SECONDS,
        pipeline_commands: int = PIPELINE_COMMANDS,
    ) -> None:
        self._client = client
        self._where = where
        self._reply_seconds = reply_seconds
        self._pipeline_commands = pipeline_commands
        self._turn = asyncio.Semaphore(_PIPELINES)
        self._pause_seconds = 0.0
        self._failing_until = 0.0
        self._failure = ""

    async def run(self, commands: Iterable[Command]) -> list[Any]:
        """Run the commands in as few round trips as there are bounds for, and give their replies.

        They are not a transaction: after an error some may have been run.

        Raises:
            RegistryUnavailableError: no reply, or a reply that is an error.
        """
        queue = list(commands)
        replies: list[Any] = []
        for first in range(0, len(queue), self._pipeline_commands):
            replies += await self._run_pipeline(queue[first : first + self._pipeline_commands])
            # The embedded registry answers without ever waiting: let others have their turn.
            await asyncio.sleep(0)
        return replies

    async def _run_pipeline(self, commands: list[Command]) -> list[Any]:
        now = asyncio.get_running_loop().time
        self._check_failing()
        try:
            with keep_cancellation():
                async with asyncio.timeout(self._reply_seconds), self._turn:
                    self._check_failing()  # it may have failed others meanwhile
                    replies = await self._send(commands)
        except REDIS_ERRORS as error:
            reason = self._reason(error)
            if isinstance(error, _LOST) and now() >= self._failing_until:
                self._pause_seconds = min(
                    max(2 * self._pause_seconds, _BACKOFF_FIRST_SECONDS), _BACKOFF_MOST_SECONDS
                )
                self._failing_until = now() + self._pause_seconds * random.uniform(0.5, 1.0)
                self._failure = reason
            raise self._unavailable(reason) from error
        self._pause_seconds = self._failing_until = 0.0
        return replies

    def _check_failing(self) -> None:
        if asyncio.get_running_loop().time() < self._failing_until:
            raise self._unavailable(self._failure)

    async def _send(self, commands: list[Command]) -> list[Any]:
        replies = await self._round_trip(commands)
        if isinstance(self._client, RedisCluster) and any(isinstance(reply, _LOST) for reply in replies):
            await self._client.aclose()  # forgets which node serves what; the next command finds out anew
            replies = await self._round_trip(commands)
        forgotten = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            again = await self._round_trip([with_text(commands[place]) for place in forgotten])
            for place, reply in zip(forgotten, again, strict=True):
                replies[place] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _round_trip(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"no reply within {self._reply_seconds:g} seconds"
        text = _ERROR_NUMBER.sub("", _CLIENT_REPR.sub("", str(error)))
        return " ".join(text.split()).rstrip(".") or type(error).__name__

    def _unavailable(self, reason: str) -> RegistryUnavailableError:
        return RegistryUnavailableError(
            f"the registry at {self._where} is unavailable ({reason}); it is tried again when needed",
            registry=self._where,
        )
