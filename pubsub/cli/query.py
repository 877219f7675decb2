"""`pubsub query`: messages that are there now."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

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
    Until,
    Verbose,
    choose_format,
    parse_headers,
    parse_start,
    parse_until,
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


class Wanted(NamedTuple):
    """Which messages, from the start on."""

    until: int | datetime | None
    key: str | None
    headers: dict[str, str] | None


def query(
    topic: Topic,
    where: From = "earliest",
    until: Until = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", show_default=False, help="Only messages with this key."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            metavar="NAME=VALUE",
            show_default=False,
            help="Only messages with this header; repeat it for those with several.",
        ),
    ] = None,
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
      pubsub query sensors.temp --from 2026-01-31T09:00:00Z --until 2026-01-31T10:00:00Z --limit 100000
      pubsub query sensors.temp --key room-1 --header unit=C
      pubsub query sensors.temp --from 2026-01-31T09:30:00Z --json | jq .payload
    """
    start, format_ = parse_start(where), choose_format(chosen, as_json)
    wanted = Wanted(parse_until(until), key, parse_headers(header))
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, relay=relay, timeout_seconds=timeout) as client:
            await _copy(client, topic, start, wanted, limit or 100, choose_formatter(format_, on_terminal()))

    run(main())


async def _copy(
    client: Client, topic: str, start: Start, wanted: Wanted, limit: int, formatter: Formatter
) -> None:
    output, left = StandardOutput(), limit
    while left > 0:
        portion = min(left, PORTION_MESSAGES)
        messages = await client.query(topic, start=start, limit=portion, **wanted._asdict())
        await output.write(formatter(messages))
        left -= len(messages)
        if len(messages) < portion:
            return
        start = messages[-1].offset + 1
    if on_terminal() and sys.stderr is not None and sys.stderr.isatty():
        note(f"there may be more: --from {start}, or a larger --limit than {limit}")
