"""`pubsub index …`: run an index, and ask one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pubsub.cli.ask import ask
from pubsub.cli.options import LOOKUP_SECONDS, Index, Json, Timeout, Verbose, check_address, checked
from pubsub.cli.output import PEER_FIELDS, TOPIC_FIELDS, print_list, print_one
from pubsub.cli.run import announce, on_stop_signal, run, settle_memory
from pubsub.config import DEFAULT_EMBEDDED_REGISTRY, DEFAULT_INDEX, DEFAULT_NAMESPACE, IndexSettings
from pubsub.errors import PubsubError
from pubsub.model import parse_address

if TYPE_CHECKING:
    from pubsub.registry import Registry

app = typer.Typer(help="Run an index, or ask one.")


def _check_redis_url(text: str) -> None:
    from pubsub.registry.urls import parse_redis_url

    parse_redis_url(text)


def _check_namespace(text: str) -> None:
    from pubsub.registry.keys import Keys

    Keys(text)


@app.command()
def serve(
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", callback=check_address, help="Where to serve.")
    ] = DEFAULT_INDEX,
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis",
            metavar="URL",
            show_default=False,
            callback=checked(_check_redis_url),
            help="The registry: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://. "
            "Without it, a registry within this process.",
        ),
    ] = None,
    registry_listen: Annotated[
        str,
        typer.Option(
            "--registry-listen",
            metavar="HOST:PORT",
            callback=check_address,
            help="Without --redis: where redis-cli finds the registry of this process.",
        ),
    ] = DEFAULT_EMBEDDED_REGISTRY,
    ttl: Annotated[
        float,
        typer.Option(
            "--ttl",
            metavar="SECONDS",
            min=0.3,
            max=3600,
            help="How long a peer is believed alive without a heartbeat; it sends one each third of this.",
        ),
    ] = IndexSettings().ttl_seconds,
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            metavar="NAME",
            callback=checked(_check_namespace),
            help="How all keys in Redis begin.",
        ),
    ] = DEFAULT_NAMESPACE,
    verbose: Verbose = 0,
) -> None:
    """Run an index.

    It says who is alive and who owns which topic. It keeps nothing itself: what it knows is in the registry,
    and peers announce it again. Run as many as you like on one Redis, and give peers and clients all their
    addresses. Without --redis the registry is in this process, which is enough for one index. SIGTERM or Ctrl-C
    ends it.

    \b
    Examples:
      pubsub index serve
      pubsub index serve --listen 0.0.0.0:7470 --redis redis://redis.example:6379/0
      pubsub index serve --redis redis+sentinel://s1:26379,s2:26379/main --ttl 10
    """
    from pubsub.index import IndexServer
    from pubsub.net.descriptors import raise_descriptor_limit

    raise_descriptor_limit()

    async def main() -> None:
        stop = asyncio.Event()
        on_stop_signal(stop.set)
        registry, where = _make_registry(redis, registry_listen, namespace)
        server = IndexServer(registry, listen=parse_address(listen), settings=IndexSettings(ttl_seconds=ttl))
        async with server:
            settle_memory()
            announce(f"index serves {server.address}, registry: {where()}")
            await server.serve_until(stop)

    run(main())


def _make_registry(redis: str | None, listen: str, namespace: str) -> tuple[Registry, Any]:
    """The registry, and what tells where it is once it has been opened."""
    if redis is not None:
        from pubsub.registry import RedisRegistry

        remote = RedisRegistry(redis, namespace=namespace)
        return remote, lambda: remote.where
    from pubsub.registry import EmbeddedRegistry

    embedded = EmbeddedRegistry(listen, namespace=namespace)
    return embedded, lambda: f"embedded on {embedded.address} (redis-cli -p {embedded.address.port})"


@app.command()
def status(
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Show how an index is.

    Each of those that --index names. Exit code 1 if one of them does not answer or has no registry.

    \b
    Examples:
      pubsub index status
      pubsub index status --index 10.0.0.5:7470,10.0.0.6:7470 --json
    """
    from pubsub.client.client import Client

    async def ask(address: str) -> dict[str, Any]:
        try:
            async with Client(address, timeout_seconds=timeout) as client:
                return {"index": address, "ok": True, **await client.status()}
        except PubsubError as error:
            return {"index": address, "ok": False, "error": error.message}

    async def main() -> list[dict[str, Any]]:
        return await asyncio.gather(*(ask(address.strip()) for address in index.split(",")))

    records = run(main())
    for position, record in enumerate(records):
        if position and not as_json:
            print()
        print_one(record, as_json)
    if not all(record["ok"] and record.get("registry_ok", True) for record in records):
        raise typer.Exit(1)


@app.command()
def peers(
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """List the peers.

    Where they are, whether they are alive, of how many topics they hold a copy.

    \b
    Examples:
      pubsub index peers
      pubsub index peers --json | jq 'select(.alive | not) | .peer'
    """
    print_list(ask(index, timeout, lambda client: client.peers()), PEER_FIELDS, as_json)


@app.command()
def topics(
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """List all topics.

    Who owns them, whether the owner is there, the offset of the next message.

    \b
    Examples:
      pubsub index topics
      pubsub index topics --json | jq 'select(.online | not) | .topic'
    """
    list_topics(">", index, as_json, timeout)


def list_topics(pattern: str, index: str, as_json: bool, timeout: float) -> None:
    """Print the topics that match."""
    print_list(ask(index, timeout, lambda client: client.topics(pattern)), TOPIC_FIELDS, as_json)
