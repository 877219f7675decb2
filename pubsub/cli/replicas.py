"""`pubsub topic replicas` and `pubsub topic promote`: on which peers a topic lives, and who owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pubsub.cli.ask import ask
from pubsub.cli.complete import complete_peer
from pubsub.cli.options import LOOKUP_SECONDS, Index, Json, Timeout, Topic, Verbose
from pubsub.cli.output import Record, print_done, print_list
from pubsub.config import DEFAULT_INDEX

if TYPE_CHECKING:
    from pubsub.client.client import Client
    from pubsub.model import PeerInfo, TopicInfo

COPY_FIELDS = ("peer", "role", "in_sync", "alive", "leaving", "zone")


def show_or_change(
    topic: Topic,
    add: Annotated[
        str | None,
        typer.Option(
            "--add",
            metavar="PEER",
            autocompletion=complete_peer,
            show_default=False,
            help="Have one more copy, there.",
        ),
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="PEER",
            autocompletion=complete_peer,
            show_default=False,
            help="Have one copy less: not there.",
        ),
    ] = None,
    move: Annotated[
        tuple[str, str] | None,
        typer.Option("--move", metavar="FROM TO", show_default=False, help="Have a copy on TO, not on FROM."),
    ] = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Show or change on which peers a topic lives.

    A change is safe at any moment: a new copy takes everything from the owner first, and an old one goes once enough
    others are in sync. An owner that is to go hands over first. The command returns at once; call it again, without
    options, to see how far that is.

    \b
    Examples:
      pubsub topic replicas orders
      pubsub topic replicas orders --add dave
      pubsub topic replicas orders --move alice dave
    """
    if sum(option is not None for option in (add, remove, move)) > 1:
        raise typer.BadParameter("give one of --add, --remove and --move at a time")
    if add is None and remove is None and move is None:
        found, peers = ask(index, timeout, lambda client: _topic_and_peers(client, topic))
        print_list(_copies(found, peers), COPY_FIELDS, as_json)
        return
    source, target = move or (remove, add)
    added, removed = [target] if target else [], [source] if source else []
    changed = ask(index, timeout, lambda client: client.change_replicas(topic, add=added, remove=removed))
    where = [f"{peer}{_state(changed, peer)}" for peer in changed.replicas]
    print_done(changed, f"topic {topic} is on {', '.join(where)}", as_json)


async def _topic_and_peers(client: Client, topic: str) -> tuple[TopicInfo, dict[str, PeerInfo]]:
    return await client.topic(topic), {peer.peer: peer for peer in await client.peers()}


def _copies(topic: TopicInfo, peers: dict[str, PeerInfo]) -> list[Record]:
    """One record for each copy."""
    return [
        {
            "topic": topic.topic,
            "peer": peer,
            "role": "owner" if peer == topic.owner else "replica",
            "in_sync": peer in topic.in_sync,
            "alive": peer in peers and peers[peer].alive,
            "leaving": peer in topic.leaving,
            "zone": peers[peer].zone if peer in peers else None,
        }
        for peer in topic.replicas
    ]


def _state(topic: TopicInfo, peer: str) -> str:
    if peer in topic.leaving:
        return " (leaves once the others are in sync)"
    return "" if peer in topic.in_sync else " (not in sync yet)"


def promote(
    topic: Topic,
    peer: Annotated[
        str,
        typer.Argument(
            metavar="PEER", autocompletion=complete_peer, show_default=False, help="Who shall own it."
        ),
    ],
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Also if that copy may lack messages that were acknowledged: they are lost."
        ),
    ] = False,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Make a peer the owner of a topic.

    A copy that is in sync takes over without any loss. A topic that is offline, because no copy in sync is alive,
    waits for one; if none will ever return, --accept-loss makes another copy the owner. It says what may be lost.
    What a copy that returns later has beyond it is kept aside: pubsub topic orphans.

    \b
    Examples:
      pubsub topic promote orders bob
      pubsub topic promote orders carol --accept-loss
    """
    note = ask(index, timeout, lambda client: client.promote(topic, peer, accept_loss=accept_loss))
    print_done({"topic": topic, "owner": peer, "note": note}, f"topic {topic}", as_json)
