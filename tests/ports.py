"""Free loopback ports, chosen so that tests running side by side never pick the same one.

A port is *reserved* by a lock on a small file until this process ends, so that a server can be stopped and started
again on its port. The range lies below the ports that the kernel gives to outgoing connections.
A test that lets the kernel choose (port 0) needs none of this and is the better choice where it is possible.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

RANGE = range(10_000, 20_000)

_reserved: list[int] = []  # file descriptors; closing one, or ending the process, gives its port back


def choose_free_port() -> int:
    """Reserve a loopback port that nothing listens on, for this process alone."""
    directory = Path(tempfile.gettempdir()) / f"pubsub-test-ports-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    while True:
        port = random.choice(RANGE)
        lock = os.open(directory / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        if _can_bind(port):
            _reserved.append(lock)
            return port
        os.close(lock)


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
