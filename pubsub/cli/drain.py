"""`pubsub peer drain`: waits, with progress, until a peer holds nothing any more."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pubsub.cli.ask import ask
from pubsub.cli.options import LOOKUP_SECONDS, Index, Json, PeerName, Timeout, Verbose, checked
from pubsub.cli.output import print_done
from pubsub.cli.run import note
from pubsub.config import DEFAULT_INDEX
from pubsub.errors import TimeoutExpiredError
from pubsub.policy import parse_duration

if TYPE_CHECKING:
    from pubsub.client.client import Client

ASK_SECONDS = 0.5
"""How often it is asked how much is left."""


def drain(
    name: PeerName,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the draining; what has moved stays where it is.")
    ] = False,
    within: Annotated[
        str | None,
        typer.Option(
            "--within",
            metavar="TIME",
            callback=checked(parse_duration),
            show_default=False,
            help="Wait no longer than this, such as 10m; the draining goes on all the same.",
        ),
    ] = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Move everything off a peer, before maintenance.

    Every topic that it owns or holds a replica of gets a copy elsewhere, and leaves once that is in sync; nothing new
    is placed on it. That goes on if you end this command, which only waits and tells how far it is. It ends with
    --cancel, or when the peer is started again.

    \b
    Examples:
      pubsub peer drain alice
      pubsub peer drain alice --within 10m
      pubsub peer drain alice --cancel
    """
    if cancel:
        left = ask(index, timeout, lambda client: client.drain(name, cancel=True))
        print_done(left, f"peer {name} is not drained any more; it holds {_topics(left['topics'])}", as_json)
        return
    until = time.monotonic() + parse_duration(within) if within is not None else None
    moved = ask(index, timeout, lambda client: _wait(client, name, until))
    record = {"peer": name, "drained": True, "moved": moved}
    print_done(record, f"peer {name} is drained: {_topics(moved)} moved off it", as_json)


async def _wait(client: Client, name: str, until: float | None) -> int:
    """Returns how many topics have left the peer meanwhile."""
    said = ""
    most = 0
    while True:
        left = await client.drain(name)
        number = int(left["topics"])
        most = max(most, number)
        if number == 0:
            return most
        text = _progress(name, left, most)
        if text != said:
            note(text)
            said = text
        if until is not None and time.monotonic() >= until:
            raise TimeoutExpiredError(
                f"{text}; the draining goes on: see again with pubsub peer drain {name}"
            )
        await asyncio.sleep(ASK_SECONDS)


def _progress(name: str, left: dict[str, Any], most: int) -> str:
    text = f"peer {name}: {most - left['topics']} of {_topics(most)} moved"
    waiting = [f"{topic}: {why}" for topic, why in left.get("waiting", {}).items()]
    return f"{text} ({waiting[0]}{', …' if len(waiting) > 1 else ''})" if waiting else text


def _topics(number: int) -> str:
    return f"{number:,} topic{'' if number == 1 else 's'}"
