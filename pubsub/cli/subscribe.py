"""`pubsub subscribe`: messages as they come, until Ctrl-C, a limit, or nobody reads them any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pubsub.cli.messages import Formatter, choose_formatter
from pubsub.cli.options import (
    STREAM_SECONDS,
    FormatOption,
    From,
    Index,
    Json,
    Limit,
    Timeout,
    Topic,
    Verbose,
    choose_format,
    parse_start,
)
from pubsub.cli.output import on_terminal
from pubsub.cli.run import run
from pubsub.cli.stdout import StandardOutput
from pubsub.config import DEFAULT_INDEX

if TYPE_CHECKING:
    from pubsub.client.subscription import Subscription
    from pubsub.model import Message


def subscribe(
    topic: Topic,
    where: From = "latest",
    limit: Limit = None,
    chosen: FormatOption = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = STREAM_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Print messages as they are published.

    They come in order; with --from also older ones. It goes on after a restart of the owner or of the index, at
    the next offset: nothing is left out, nothing comes twice. Ctrl-C ends it, and so does the end of the pipe
    that it writes to.

    \b
    Examples:
      pubsub subscribe sensors.temp
      pubsub subscribe sensors.temp --from earliest --limit 10
      pubsub subscribe sensors.temp --from 2026-01-31T09:30:00+01:00 --json | jq .payload
      pubsub subscribe logs --from 1200 --format raw | grep ERROR
    """
    start, format_ = parse_start(where), choose_format(chosen, as_json)
    from pubsub.client.client import Client

    async def main() -> None:
        async with (
            Client(index, timeout_seconds=timeout) as client,
            client.subscribe(topic, start=start) as messages,
        ):
            await copy_while_read(messages, choose_formatter(format_, on_terminal()), limit)

    run(main())


async def copy_while_read(messages: Subscription, formatter: Formatter, limit: int | None) -> None:
    """Print messages until there are `limit`, or the reader of stdout has gone away."""
    output = StandardOutput()
    copying = asyncio.create_task(_copy(messages, formatter, limit, output), name="pubsub: print messages")
    closed = asyncio.create_task(output.closed(), name="pubsub: notice that nobody reads")
    try:
        await asyncio.wait((copying, closed), return_when=asyncio.FIRST_COMPLETED)
        if copying.done():
            copying.result()
    finally:
        copying.cancel()
        closed.cancel()
        await asyncio.gather(copying, closed, return_exceptions=True)


async def _copy(
    messages: Subscription, formatter: Formatter, limit: int | None, output: StandardOutput
) -> None:
    left = limit
    while left is None or left > 0:
        batch: Sequence[Message] = await messages.next_batch()
        if left is not None:
            batch = batch[:left]
            left -= len(batch)
        await output.write(formatter(batch))
