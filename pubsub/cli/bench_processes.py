"""The worker processes of `pubsub bench`: started, listened to, given orders, and ended, each by its process id."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeVar

from pubsub.cli.bench_talk import (
    Delivered,
    Failed,
    Order,
    Progress,
    Published,
    Ready,
    Task,
    decode_answer,
    encode,
)
from pubsub.cli.run import own_command
from pubsub.errors import InternalError, PubsubError

LINE_BYTES = 4 * 1024 * 1024
"""A report is one line: two numbers for each bucket in use of its histogram, and for each stream."""

R = TypeVar("R", Published, Delivered)


class Worker:
    """One process.

    Args:
        name: What people call those that it plays.
    """

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        self.count = 0
        """How many messages it has published or received, as far as it has said."""
        self._task = task
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self._report: Published | Delivered | None = None
        self._failure: PubsubError | None = None

    async def start(self) -> None:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            *own_command("pubsub.cli.bench_worker"),
            encode(self._task).decode(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for us, who end them in order
        )
        self._listening = asyncio.create_task(self._listen(), name=f"pubsub: bench {self.name}")

    async def ready(self) -> None:
        """Wait until it is prepared.

        Raises:
            PubsubError: it cannot go on; the message says which one, and why.
        """
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure

    async def reported(self, kind: type[R]) -> R:
        """Wait for its report, and return it.

        Raises:
            PubsubError: it cannot go on; the message says which one, and why.
        """
        await self._over.wait()
        if self._failure is not None:
            raise self._failure
        assert isinstance(self._report, kind)
        return self._report

    def order(self, order: Order) -> None:
        """Tell it something. Of one that is gone `reported` knows."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):
            self._process.stdin.write(encode(order) + b"\n")

    async def end(self) -> None:
        """Make sure that it is gone: it holds nothing that somebody would miss. Idempotent."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._listening is not None:
            await self._listening

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = decode_answer(line)
            if isinstance(answer, Ready):
                self._ready.set()
            elif isinstance(answer, Progress):
                self.count = answer.count
            elif isinstance(answer, Failed):
                self._failure = PubsubError(f"{self.name}: {answer.message}")
            else:
                self._report = answer
                self._over.set()
        code = await self._process.wait()
        if self._report is None and self._failure is None:
            self._failure = InternalError(f"{self.name} ended with exit code {code} before it had reported")
        self._ready.set()
        self._over.set()


async def end_all(workers: list[Worker]) -> None:
    """End them all at once."""
    await asyncio.gather(*(worker.end() for worker in workers), return_exceptions=True)
