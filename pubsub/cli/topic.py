"""`pubsub topic …`: create, list, show, set, delete; what is scheduled, and taking that back."""

from __future__ import annotations

from typing import Annotated

import typer

from pubsub.cli.ask import ask
from pubsub.cli.complete import complete_peer
from pubsub.cli.index import list_topics
from pubsub.cli.messages import SCHEDULED_FIELDS, scheduled_record
from pubsub.cli.options import LOOKUP_SECONDS, Index, Json, Timeout, Topic, Verbose
from pubsub.cli.orphans import orphans
from pubsub.cli.output import Record, print_done, print_list, print_one
from pubsub.cli.policy import (
    Compact,
    Dedupe,
    MaxAge,
    MaxBytes,
    MaxMessages,
    MinInSync,
    ReplaceAfter,
    ReplicaLag,
    Replicas,
    UntilAcknowledged,
    policy_changes,
)
from pubsub.cli.replicas import promote, show_or_change
from pubsub.cli.verify import verify
from pubsub.config import DEFAULT_INDEX
from pubsub.model import TopicInfo
from pubsub.policy import format_policy, stored_policy

app = typer.Typer(help="Create, list, show, change and delete topics; where they live; messages for later.")
app.command("replicas")(show_or_change)
app.command("promote")(promote)
app.command("orphans")(orphans)
app.command("verify")(verify)


@app.command()
def create(
    topic: Topic,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="PEER",
            autocompletion=complete_peer,
            show_default=False,
            help="The peer that shall own it. Without it: the least loaded one that is alive.",
        ),
    ] = None,
    max_age: MaxAge = None,
    max_messages: MaxMessages = None,
    max_bytes: MaxBytes = None,
    until_acknowledged: UntilAcknowledged = None,
    compact: Compact = None,
    dedupe: Dedupe = None,
    replicas: Replicas = None,
    min_in_sync: MinInSync = None,
    replica_lag: ReplicaLag = None,
    replace_after: ReplaceAfter = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Create a topic.

    Its messages will be in the file of the peer that owns it. A name is parts of letters, digits, _ and -
    joined by dots, at most 200 characters. Without limits all messages are kept.

    \b
    Examples:
      pubsub topic create sensors.temp
      pubsub topic create sensors.temp --on alice --max-age 7d --max-bytes 10GiB
      pubsub topic create settings --compact
      pubsub topic create orders --replicas 3
    """
    policy = policy_changes(
        *(max_age, max_messages, max_bytes, until_acknowledged, compact, dedupe),
        *(replicas, min_in_sync, replica_lag, replace_after),
    )
    created = ask(index, timeout, lambda client: client.create_topic(topic, on=on, policy=policy))
    print_done(created, f"created topic {created.topic}, {_holders(created)}", as_json)


def _holders(created: TopicInfo) -> str:
    text = f"owned by {created.owner}"
    if len(created.replicas) > 1:
        text += f", with replicas on {', '.join(peer for peer in created.replicas if peer != created.owner)}"
    wanted = stored_policy(created.policy).replicas
    if len(created.replicas) < wanted:
        text += f"; {wanted - len(created.replicas)} more will be made once there are peers for them"
    return text


@app.command("list")
def list_(
    pattern: Annotated[
        str,
        typer.Argument(metavar="PATTERN", help="Names, with * for one part and > at the end for the rest."),
    ] = ">",
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """List topics.

    Who owns them, whether the owner is there, the offset of the next message.

    \b
    Examples:
      pubsub topic list
      pubsub topic list 'sensors.*'
      pubsub topic list 'site-1.>' --json | jq .topic
    """
    list_topics(pattern, index, as_json, timeout)


@app.command()
def show(
    topic: Topic,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Show all that is known of a topic.

    \b
    Examples:
      pubsub topic show sensors.temp
      pubsub topic show sensors.temp --json | jq .next_offset
    """
    print_one(ask(index, timeout, lambda client: client.topic(topic)), as_json, _with_policy_in_words)


def _with_policy_in_words(record: Record) -> Record:
    return {**record, "policy": format_policy(stored_policy(record["policy"]))}


@app.command("set")
def set_(
    topic: Topic,
    max_age: MaxAge = None,
    max_messages: MaxMessages = None,
    max_bytes: MaxBytes = None,
    until_acknowledged: UntilAcknowledged = None,
    compact: Compact = None,
    dedupe: Dedupe = None,
    replicas: Replicas = None,
    min_in_sync: MinInSync = None,
    replica_lag: ReplicaLag = None,
    replace_after: ReplaceAfter = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Change what becomes of a topic's messages, and how many copies there are.

    Parts that are not given stay as they are. What a limit takes away is gone for good.

    \b
    Examples:
      pubsub topic set sensors.temp --max-age 7d --max-bytes 10GiB
      pubsub topic set sensors.temp --max-age off
      pubsub topic set settings --no-compact
      pubsub topic set orders --replicas 3 --replace-after 1m
    """
    changes = policy_changes(
        *(max_age, max_messages, max_bytes, until_acknowledged, compact, dedupe),
        *(replicas, min_in_sync, replica_lag, replace_after),
    )
    if not changes:
        raise typer.BadParameter("say what to change, such as --max-age 7d")
    changed = ask(index, timeout, lambda client: client.set_policy(topic, **changes))
    kept = [f"{name} {value}" for name, value in format_policy(stored_policy(changed.policy)).items()]
    print_done(changed, f"topic {topic}: {', '.join(kept) or 'keeps everything'}", as_json)


@app.command()
def delete(
    topic: Topic,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Delete a topic with all its messages.

    There is no way back; a topic created anew is another one.

    \b
    Examples:
      pubsub topic delete sensors.temp
    """
    note = ask(index, timeout, lambda client: client.delete_topic(topic))
    print_done({"topic": topic, "deleted": True, "note": note}, f"deleted topic {topic}", as_json)


@app.command()
def scheduled(
    topic: Topic,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="List the N messages that are due first.")
    ] = 100,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """List the messages that are held for later.

    Those come first that are due first. `pubsub publish --delay` and `--at` make them; `topic show` counts them.

    \b
    Examples:
      pubsub topic scheduled reminders
      pubsub topic scheduled reminders --limit 10 --json | jq .schedule_id
    """
    found = ask(index, timeout, lambda client: client.scheduled(topic, limit=limit))
    print_list([scheduled_record(message, as_json) for message in found], SCHEDULED_FIELDS, as_json)


@app.command()
def cancel(
    topic: Topic,
    schedule_ids: Annotated[
        list[int],
        typer.Argument(
            metavar="ID...",
            min=1,
            max=2**63 - 1,
            show_default=False,
            help="Schedule ids, as `pubsub topic scheduled` lists them.",
        ),
    ],
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Take back messages that are held for later.

    Those that are gone, because they have been delivered, say, are named by the error; the others are cancelled.

    \b
    Examples:
      pubsub topic cancel reminders 7
    """
    ask(index, timeout, lambda client: client.cancel_scheduled(topic, *schedule_ids))
    for number in dict.fromkeys(schedule_ids):
        record = {"topic": topic, "schedule_id": number, "cancelled": True}
        print_done(record, f"cancelled message {number} of topic {topic}", as_json)
