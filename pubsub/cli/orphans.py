"""`pubsub topic orphans`: messages that were cut off copies of a topic, and are kept by the peers that had them."""

from __future__ import annotations

from typing import Annotated

import typer

from pubsub.cli.ask import ask
from pubsub.cli.messages import ORPHAN_FIELDS, orphan_record
from pubsub.cli.options import LOOKUP_SECONDS, Index, Json, Timeout, Topic, Verbose
from pubsub.cli.output import print_list
from pubsub.cli.run import note
from pubsub.config import DEFAULT_INDEX


def orphans(
    topic: Topic,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1000, help="So many of each peer.")
    ] = 100,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """List what was cut off copies of a topic.

    A peer that comes back and has messages that the topic's new owner has not got keeps them apart: they were on its
    disk alone, and nobody was told with acks="all" that they are safe. Publish again what is to be in the topic.

    \b
    Examples:
      pubsub topic orphans orders
      pubsub topic orphans orders --json | jq -r .payload
    """
    total, found = ask(index, timeout, lambda client: client.orphans(topic, limit=limit))
    print_list([orphan_record(orphan, as_json) for orphan in found], ORPHAN_FIELDS, as_json)
    if len(found) < total:
        note(f"{len(found)} of {total} are listed; the others stand in orphaned_messages of the peers' files")
