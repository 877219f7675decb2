"""Where the registry's conformance suite runs: in this process, and on real Redis, alone or not."""

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pubsub.registry import EmbeddedRegistry, RedisRegistry
from tests.ports import choose_free_port
from tests.redis_process import RedisProcess, redis_server_binary
from tests.waiting import wait_until_blocking

MakeRegistry = Callable[[str], RedisRegistry]
"""Takes a namespace; what it makes is not open yet."""

BACKENDS = ("embedded", "redis", "socket", "sentinel", "cluster")


def start_backend(kind: str, directory: Path, stack: ExitStack) -> MakeRegistry:
    """Start the servers of this kind; `stack` stops them."""
    if kind == "embedded":
        return lambda namespace: EmbeddedRegistry("127.0.0.1:0", namespace=namespace)
    require_redis()
    if kind == "sentinel":
        master = run_redis(stack)
        url = f"redis+sentinel://127.0.0.1:{run_sentinel(stack, directory, master.port)}/main"
    elif kind == "cluster":
        nodes = run_cluster(stack)
        url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
    else:
        server = run_redis(stack)
        url = server.url if kind == "redis" else server.unix_url
    return lambda namespace: RedisRegistry(url, namespace=namespace)


def require_redis() -> None:
    if redis_server_binary() is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed, and CI must not skip the tests that need it")
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")


def run_redis(stack: ExitStack, *options: str) -> RedisProcess:
    server = RedisProcess(*options)
    stack.callback(server.close)
    server.start()
    return server


def run_sentinel(stack: ExitStack, directory: Path, master_port: int) -> int:
    """Start one sentinel that watches a master under the name `main`, and return its port."""
    port = choose_free_port()
    configuration = directory / f"sentinel-{port}.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor main 127.0.0.1 {master_port} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
    )
    binary = redis_server_binary()
    assert binary is not None
    process = subprocess.Popen(
        [binary, str(configuration), "--sentinel"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    wait_until_blocking(
        lambda: _ask(port, "SENTINEL", "get-master-addr-by-name", "main"), description="the sentinel"
    )
    return port


def run_cluster(stack: ExitStack) -> list[RedisProcess]:
    """Start two masters that share the slots."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    nodes = [run_redis(stack, *options, "--cluster-config-file", "nodes.conf") for _ in range(2)]
    _ask(nodes[0].port, "CLUSTER", "ADDSLOTSRANGE", "0", "8191")
    _ask(nodes[1].port, "CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
    _ask(nodes[0].port, "CLUSTER", "MEET", "127.0.0.1", str(nodes[1].port))
    for node in nodes:
        wait_until_blocking(
            lambda port=node.port: "cluster_state:ok" in _ask(port, "CLUSTER", "INFO"),
            description="the cluster",
        )
    return nodes


def _ask(port: int, *command: str) -> str:
    cli = ["redis-cli", "-p", str(port), *command]
    return subprocess.run(cli, capture_output=True, text=True, check=False, timeout=10).stdout
