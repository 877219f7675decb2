"""Fixtures that tests of every kind share: a real redis-server, and a free port.

A test gets its own redis-server, empty: no test can see another's keys, and each may kill it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.ports import choose_free_port
from tests.redis_process import RedisProcess, redis_server_binary


def pytest_configure() -> None:
    """Ctrl-C must reach the commands that tests start: a shell that runs us in the background has SIGINT ignored,
    and programs inherit that.
    """
    if (
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisProcess]]:
    """A function that starts one more redis-server (its arguments are redis-server options); all end with the test."""
    if redis_server_binary() is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed, and CI must not skip the tests that need it")
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    started: list[RedisProcess] = []

    def start(*options: str) -> RedisProcess:
        server = RedisProcess(*options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture
def redis_process(start_redis: Callable[..., RedisProcess]) -> RedisProcess:
    """A running redis-server that the test may stop and start again."""
    return start_redis()


@pytest.fixture
def redis_server(redis_process: RedisProcess) -> str:
    """The URL of a running, empty redis-server of this test's own."""
    return redis_process.url


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on, reserved for this process (more: `tests.ports.choose_free_port`)."""
    return choose_free_port()
