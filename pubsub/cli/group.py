"""`pubsub group …`: list, show, peek, reset, redrive, delete. Members are made by `pubsub subscribe --group`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pubsub.cli.ask import ask
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
from pubsub.cli.output import Record, on_terminal, print_done, print_list, print_one
from pubsub.cli.stdout import StandardOutput
from pubsub.config import DEFAULT_INDEX

if TYPE_CHECKING:
    from pubsub.client.client import Client

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
    found = ask(index, timeout, lambda client: client.groups(topic))
    print_list(found, GROUP_FIELDS, as_json, _with_members_counted)


def _with_members_counted(record: Record) -> Record:
    return {**record, "members": len(record["members"])}


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
    print_one(ask(index, timeout, lambda client: client.group(topic, group)), as_json, _with_members_in_words)


def _with_members_in_words(record: Record) -> Record:
    members = ["  ".join(f"{name}={value}" for name, value in member.items()) for member in record["members"]]
    return {**record, "members": {str(n): text for n, text in enumerate(members, 1)} or None}


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

    async def main(client: Client) -> None:
        messages = await client.peek_group(topic, group, limit=limit)
        await StandardOutput().write(choose_formatter(format_, on_terminal())(messages))

    ask(index, timeout, main)


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
    note = ask(index, timeout, lambda client: client.reset_group(topic, group, start))
    _print_done(topic, group, "reset", note, as_json)


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
    note = ask(index, timeout, lambda client: client.redrive_group(topic, group))
    _print_done(topic, group, "redriven", note, as_json)


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
    note = ask(index, timeout, lambda client: client.delete_group(topic, group))
    _print_done(topic, group, "deleted", note, as_json)


def _print_done(topic: str, group: str, done: str, note: str, as_json: bool) -> None:
    record = {"topic": topic, "group": group, done: True, "note": note}
    print_done(record, f"{done} group {group} of {topic}", as_json)
