"""A question to an index, or to what it knows: what most commands do, before they print the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from pubsub.cli.run import run

if TYPE_CHECKING:
    from pubsub.client.client import Client

T = TypeVar("T")


def ask(index: str, timeout_seconds: float, question: Callable[[Client], Awaitable[T]]) -> T:
    """Run `question` with a client of that index, and return its answer.

    Raises:
        PubsubError: nobody answered in time, or what the question raises.
    """
    from pubsub.client.client import Client  # not at the top: help and completion need none

    async def main() -> T:
        async with Client(index, timeout_seconds=timeout_seconds) as client:
            return await question(client)

    return run(main())
