"""`pubsub peer …`: run a peer, and ask about one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from pubsub.cli.ask import ask
from pubsub.cli.drain import drain
from pubsub.cli.options import (
    LOOKUP_SECONDS,
    Index,
    Json,
    PeerName,
    Timeout,
    Verbose,
    check_address,
    checked,
)
from pubsub.cli.output import TOPIC_FIELDS, Record, print_list, print_one
from pubsub.cli.peer_process import PeerOptions, become_peer
from pubsub.config import DEFAULT_INDEX
from pubsub.errors import PeerNotFoundError, PubsubError
from pubsub.model import check_zone

if TYPE_CHECKING:
    from pubsub.client.client import Client
    from pubsub.model import PeerInfo, TopicInfo

app = typer.Typer(help="Run a peer, ask about one, empty one.")
app.command("drain")(drain)


@app.command()
def serve(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Unique among the peers of an index.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR", show_default=False, help="The data directory; made if it is missing."
        ),
    ],
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            callback=check_address,
            help="Where to serve; port 0: any free one.",
        ),
    ] = "127.0.0.1:0",
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise",
            metavar="HOST:PORT",
            callback=check_address,
            show_default=False,
            help="Where others reach this peer, if not where it listens.",
        ),
    ] = None,
    zone: Annotated[
        str,
        typer.Option(
            "--zone",
            metavar="NAME",
            callback=checked(check_zone),
            show_default=False,
            help="What fails together with it, a rack or a site: copies of a topic are spread over zones.",
        ),
    ] = "",
    set_damaged_aside: Annotated[
        bool,
        typer.Option(
            "--set-damaged-aside",
            help="Keep a damaged peer.db as peer.db.damaged-TIME and begin empty, instead of refusing it.",
        ),
    ] = False,
    index: Index = DEFAULT_INDEX,
    verbose: Verbose = 0,
) -> None:
    """Run a peer.

    It keeps its topics in DIR/peer.db, which sqlite3 opens at any time, and serves them. It serves its topics
    also while no index answers, and registers when one does. SIGTERM or Ctrl-C ends it in good order; a second
    one at once. The name belongs to the data directory: start it with both again.

    \b
    Examples:
      pubsub peer serve alice --data ./alice
      pubsub peer serve alice --data /srv/alice --listen 0.0.0.0:7480 --advertise alice.example:7480 \\
          --index 10.0.0.5:7470,10.0.0.6:7470
      sqlite3 -readonly ./alice/peer.db "select * from topic_messages limit 5"
    """
    options = PeerOptions(
        name=name,
        data=str(data),
        listen=listen,
        advertise=advertise,
        zone=zone,
        index=index,
        verbose=verbose,
        set_damaged_aside=set_damaged_aside,
    )
    become_peer(options)


@app.command()
def status(
    name: PeerName,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Show how a peer is.

    What the index knows of it, and what it says of itself if it answers.

    \b
    Examples:
      pubsub peer status alice
      pubsub peer status alice --json | jq .published
    """
    record = msgspec.to_builtins(ask(index, timeout, lambda client: _find(client, name)))
    if record["alive"] and record["address"]:
        try:
            record |= ask(record["address"], timeout, lambda client: client.status())
        except PubsubError as error:
            record["error"] = error.message
    print_one(record, as_json)


@app.command()
def topics(
    name: PeerName,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """List the topics that a peer owns or holds a replica of.

    \b
    Examples:
      pubsub peer topics alice
      pubsub peer topics alice --json | jq -r .topic
    """

    async def held(client: Client) -> list[TopicInfo]:
        await _find(client, name)
        return [topic for topic in await client.topics() if name == topic.owner or name in topic.replicas]

    def record(topic: TopicInfo) -> Record:
        role = "owner" if name == topic.owner else "replica"
        synced = {} if len(topic.replicas) < 2 else {"synced": name in topic.in_sync}
        return {**msgspec.to_builtins(topic), "role": role, **synced}

    print_list([record(topic) for topic in ask(index, timeout, held)], (*TOPIC_FIELDS, "role"), as_json)


async def _find(client: Client, name: str) -> PeerInfo:
    for peer in await client.peers():
        if peer.peer == name:
            return peer
    raise PeerNotFoundError(f"no peer {name} is registered; pubsub index peers lists those that are")
