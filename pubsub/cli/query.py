"""`pubsub query`: messages that are there now."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pubsub.cli.messages import Formatter, choose_formatter
from pubsub.cli.options import (
    LOOKUP_SECONDS,
    FormatOption,
    From,
    Index,
    Json,
    Limit,
    Relay,
    Timeout,
    Topic,
    Verbose,
    choose_format,
    parse_start,
)
from pubsub.cli.output import on_terminal
from pubsub.cli.run import note, run
from pubsub.cli.stdout import StandardOutput
from pubsub.config import DEFAULT_INDEX

if TYPE_CHECKING:
    from pubsub.client.client import Client
    from pubsub.client.subscription import Start

PORTION_MESSAGES = 5000
"""Read at a time, so that a large limit needs no large memory."""


def query(
    topic: Topic,
    where: From = "earliest",
    limit: Limit = 100,
    chosen: FormatOption = None,
    index: Index = DEFAULT_INDEX,
    relay: Relay = False,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Print messages that are there now.

    At most 100, unless --limit says otherwise.

    \b
    Examples:
      pubsub query sensors.temp
      pubsub query sensors.temp --from 1200 --limit 10
      pubsub query sensors.temp --from 2026-01-31T09:30:00Z --json | jq .payload
    """
    start, format_ = parse_start(where), choose_format(chosen, as_json)
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, relay=relay, timeout_seconds=timeout) as client:
            await _copy(client, topic, start, limit or 100, choose_formatter(format_, on_terminal()))

    run(main())


async def _copy(client: Client, topic: str, start: Start, limit: int, formatter: Formatter) -> None:
    output, left = StandardOutput(), limit
    while left > 0:
        wanted = min(left, PORTION_MESSAGES)
        messages = await client.query(topic, start=start, limit=wanted)
        await output.write(formatter(messages))
        left -= len(messages)
        if len(messages) < wanted:
            return
        start = messages[-1].offset + 1
    if on_terminal() and sys.stderr is not None and sys.stderr.isatty():
        note(f"there may be more: --from {start}, or a larger --limit than {limit}")
