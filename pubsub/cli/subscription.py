"""`pubsub subscription …`: list, show, reset, delete. They are made by `pubsub subscribe --durable`."""

from __future__ import annotations

from typing import Annotated

import typer

from pubsub.cli.ask import ask
from pubsub.cli.complete import complete_subscription, complete_topic
from pubsub.cli.options import LOOKUP_SECONDS, Index, Json, Timeout, To, Topic, Verbose, parse_start
from pubsub.cli.output import print_done, print_list, print_one
from pubsub.config import DEFAULT_INDEX

app = typer.Typer(help="Durable subscriptions, which go on where they stopped: list, show, reset and delete.")

SUBSCRIPTION_FIELDS = ("topic", "subscription", "position", "lag", "kept_at", "connected", "updated_at")

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        autocompletion=complete_subscription,
        show_default=False,
        help="Name of the subscription; NAME@PEER where a peer keeps it itself.",
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
    """List durable subscriptions.

    The offset at which each goes on, how many messages lie from there to the end, the peer in whose file that
    stands, whether somebody reads by it now. Of all topics: what the peers that are alive know.

    \b
    Examples:
      pubsub subscription list
      pubsub subscription list sensors.temp --json | jq '{subscription, lag}'
    """
    found = ask(index, timeout, lambda client: client.subscriptions(topic))
    print_list(found, SUBSCRIPTION_FIELDS, as_json)


@app.command()
def show(
    topic: Topic,
    name: Name,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Show a durable subscription.

    \b
    Examples:
      pubsub subscription show sensors.temp dash
      pubsub subscription show sensors.temp dash@bob --json | jq .position
    """
    print_one(ask(index, timeout, lambda client: client.subscription(topic, name)), as_json)


@app.command()
def reset(
    topic: Topic,
    name: Name,
    to: To,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Have a durable subscription go on elsewhere.

    Whoever reads by it now ends with an error, and goes on from the new place by subscribing again.

    \b
    Examples:
      pubsub subscription reset sensors.temp dash --to earliest
      pubsub subscription reset sensors.temp dash --to 1200
      pubsub subscription reset sensors.temp dash --to 2026-01-31T09:30:00Z
    """
    start = parse_start(to, "--to")
    note = ask(index, timeout, lambda client: client.reset_subscription(topic, name, start))
    _print_done(topic, name, "reset", note, as_json)


@app.command()
def delete(
    topic: Topic,
    name: Name,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Forget a durable subscription.

    Whoever reads by it now ends with an error. Retention waits for it no longer. The messages stay.

    \b
    Examples:
      pubsub subscription delete sensors.temp dash
    """
    note = ask(index, timeout, lambda client: client.delete_subscription(topic, name))
    _print_done(topic, name, "deleted", note, as_json)


def _print_done(topic: str, name: str, done: str, note: str, as_json: bool) -> None:
    record = {"topic": topic, "subscription": name, done: True, "note": note}
    print_done(record, f"{done} subscription {name} of {topic}", as_json)
