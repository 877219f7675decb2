"""Many questions, few round trips: what arrives while one call is under way goes into the next one.

No timer: a question that comes alone is asked at once, and the busier it gets, the more share a call. An answer
is never older than its question, since nobody joins a call that has begun. How many wait is bounded by the
connections and the requests that each may have under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from pubsub.errors import InternalError, PubsubError, error_from_wire

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Coalescer(Generic[Question, Answer]):
    """Asks in groups. `run` must be running for `ask` to return.

    Args:
        ask_all: gives one answer for each question, in their order.
        most: questions in one call.
    """

    def __init__(
        self, ask_all: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]], most: int = 1000
    ) -> None:
        self._ask_all = ask_all
        self._most = most
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    async def ask(self, question: Question) -> Answer:
        """The answer to one question.

        Raises:
            PubsubError: what the call raised that this question went into.
            InternalError: `run` has ended.
        """
        if self._ended:
            raise _shutting_down()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self._arrived.set()
        return await answer

    async def run(self) -> None:
        """Ask what there is to be asked, for ever. A fault that is no PubsubError ends it."""
        taken: list[tuple[Question, asyncio.Future[Answer]]] = []
        try:
            while True:
                await self._arrived.wait()
                taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                if not self._waiting:
                    self._arrived.clear()
                taken = [pair for pair in taken if not pair[1].done()]  # some have gone away meanwhile
                if taken:
                    await self._answer(taken)
        finally:
            self._ended = True
            for _, answer in (*taken, *self._waiting):
                if not answer.done():
                    answer.set_exception(_shutting_down())

    async def _answer(self, taken: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._ask_all([question for question, _ in taken])
        except PubsubError as error:
            for _, answer in taken:
                if not answer.done():  # each gets its own: raised twice, an error gathers tracebacks
                    answer.set_exception(error_from_wire(error.code, error.message, error.data))
            return
        for (_, answer), value in zip(taken, answers, strict=True):
            if not answer.done():
                answer.set_result(value)


def _shutting_down() -> InternalError:
    return InternalError("the index is shutting down")
