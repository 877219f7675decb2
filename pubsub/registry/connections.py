"""Makes a redis-py client for each kind of registry URL; connects to nothing yet.

Replies are text, whatever bytes somebody put there. The library itself tries twice at most, so that a
connection which broke while idle goes unnoticed; all other waiting and trying again is in `commands`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from pubsub.registry.urls import RedisAddress

RedisClient = Redis | RedisCluster

CONNECT_SECONDS = 2.0
"""How long making a connection may take."""
REPLY_SECONDS = 3.0
"""How long a reply may take. Less than clients (5 s) and peers (4 s) wait for an index, which must still have the time
to say that it is the registry that does not answer."""


def make_client(address: RedisAddress, closing: AsyncExitStack, reply_seconds: float) -> RedisClient:
    """Make a client and see to it that `closing` closes it."""
    options = _options(address, reply_seconds)
    client: RedisClient
    if address.kind == "sentinel":
        client = _behind_sentinels(address, options, closing)
    elif address.kind == "cluster":
        nodes = [ClusterNode(host.host, host.port) for host in address.hosts]
        client = RedisCluster(startup_nodes=nodes, **options)
    elif address.kind == "socket":
        client = Redis(unix_socket_path=address.path, db=address.database, **options)
    else:
        (host,) = address.hosts
        client = Redis(host=host.host, port=host.port, db=address.database, **options)
    closing.push_async_callback(client.aclose)
    return client


def client_options(reply_seconds: float = REPLY_SECONDS) -> dict[str, Any]:
    """The options that every client has, also one of the embedded registry."""
    return {
        "protocol": 2,
        "decode_responses": True,
        "encoding_errors": "replace",
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": reply_seconds,
        "driver_info": None,  # spares each connection two commands that only name the library
    }


def _options(address: RedisAddress, reply_seconds: float) -> dict[str, Any]:
    options = client_options(reply_seconds)
    options |= {"username": address.username, "password": address.password}
    if address.tls:
        options |= {"ssl": True} | {name: v for name, v in address.options.items() if name.startswith("ssl_")}
    if address.kind == "socket":
        del options["socket_connect_timeout"]  # the library has none for sockets
    return options


def _behind_sentinels(address: RedisAddress, options: dict[str, Any], closing: AsyncExitStack) -> RedisClient:
    """The client asks the sentinels for the master at each connection, and so follows it."""
    login = {"username": "sentinel_username", "password": "sentinel_password"}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [(host.host, host.port) for host in address.hosts],
        sentinel_kwargs=options | {name: address.options.get(option) for name, option in login.items()},
    )
    closing.push_async_callback(sentinel.aclose)
    client: RedisClient = sentinel.master_for(address.service, db=address.database, **options)
    return client
