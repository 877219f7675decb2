"""`pubsub group …`: list, show, peek, reset, redrive, delete. Members are made by `pubsub subscribe --group`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from pubsub.cli.complete import complete_group, complete_topic
from pubsub.cli.messages import choose_formatter
from pubsub.cli.options import (
    LOOKUP_SECONDS,
    FormatOption,
    Index,
    Json,
    Timeout,
    To,
    Topic,
    Verbose,
    choose_format,
    parse_start,
)
from pubsub.cli.output import on_terminal, print_json, print_list, print_one
from pubsub.cli.run import run
from pubsub.cli.stdout import StandardOutput
from pubsub.config import DEFAULT_INDEX

app = typer.Typer(help="Groups that share the work of a topic: list, show, peek, reset, redrive and delete.")

GROUP_FIELDS = ("topic", "group", "ready", "in_flight", "delayed", "dead", "lag", "members")
MOST_PEEKED = 1000

Group = Annotated[
    str,
    typer.Argument(
        metavar="GROUP", autocompletion=complete_group, show_default=False, help="Name of the group."
    ),
]


@app.command("list")
def list_(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC",
            autocompletion=complete_topic,
            show_default=False,
            help="Name of the topic; all topics if none is given.",
        ),
    ] = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """List groups.

    How many messages of each are ready, in flight, delayed and dead; its lag, which is the first three together;
    how many members it has. Of all topics: what the peers that are alive know.

    \b
    Examples:
      pubsub group list
      pubsub group list jobs
      pubsub group list jobs --json | jq '{group, lag}'
    """
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, timeout_seconds=timeout) as client:
            records = [msgspec.to_builtins(group) for group in await client.groups(topic)]
        if not as_json:
            records = [{**record, "members": len(record["members"])} for record in records]
        print_list(records, GROUP_FIELDS, as_json)

    run(main())


@app.command()
def show(
    topic: Topic,
    group: Group,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Show how a group is doing, who its members are, and its options.

    \b
    Examples:
      pubsub group show jobs workers
      pubsub group show jobs workers --json | jq .members
    """
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, timeout_seconds=timeout) as client:
            record = msgspec.to_builtins(await client.group(topic, group))
        if not as_json:
            members = [_member_text(member) for member in record["members"]]
            record["members"] = {str(n): text for n, text in enumerate(members, 1)} or None
        print_one(record, as_json)

    run(main())


def _member_text(member: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={value}" for name, value in member.items())


@app.command()
def peek(
    topic: Topic,
    group: Group,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=MOST_PEEKED, help="Show at most N.")
    ] = 10,
    chosen: FormatOption = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Print the next messages that a group would give out. Nothing changes.

    \b
    Examples:
      pubsub group peek jobs workers
      pubsub group peek jobs workers --limit 100 --json | jq .payload
    """
    format_ = choose_format(chosen, as_json)
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, timeout_seconds=timeout) as client:
            messages = await client.peek_group(topic, group, limit=limit)
        await StandardOutput().write(choose_formatter(format_, on_terminal())(messages))

    run(main())


@app.command()
def reset(
    topic: Topic,
    group: Group,
    to: To,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Have a group begin anew at some place.

    What it had not acknowledged is forgotten; what comes from there on is given out, also what was acknowledged.
    Dead letters stay where they are.

    \b
    Examples:
      pubsub group reset jobs workers --to earliest
      pubsub group reset jobs workers --to 1200
      pubsub group reset jobs workers --to 2026-01-31T09:30:00Z
    """
    start = parse_start(to, "--to")
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, timeout_seconds=timeout) as client:
            _print_done(topic, group, "reset", await client.reset_group(topic, group, start), as_json)

    run(main())


@app.command()
def redrive(
    topic: Topic,
    group: Group,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Give a group its dead letters once more.

    Their attempts are counted anew. Do it when what made them fail has been mended.

    \b
    Examples:
      pubsub query jobs.dead              # look at them first
      pubsub group redrive jobs workers
    """
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, timeout_seconds=timeout) as client:
            _print_done(topic, group, "redriven", await client.redrive_group(topic, group), as_json)

    run(main())


@app.command()
def delete(
    topic: Topic,
    group: Group,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Forget a group, with all that it had not acknowledged.

    Its members end with an error. The messages stay in the topic, and dead letters where they are.

    \b
    Examples:
      pubsub group delete jobs workers
    """
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, timeout_seconds=timeout) as client:
            _print_done(topic, group, "deleted", await client.delete_group(topic, group), as_json)

    run(main())


def _print_done(topic: str, group: str, done: str, remark: str, as_json: bool) -> None:
    if as_json:
        print_json({"topic": topic, "group": group, done: True, "note": remark})
    else:
        print(f"{done} group {group} of {topic}" + (f": {remark}" if remark else ""))
