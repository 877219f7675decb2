"""A real redis-server as a child process, for tests that must not trust a double.

Owns starting it (nothing is written to disk), waiting until it answers, stopping it by its process id, and
starting it again on the same port, empty. What is stored in it belongs to the test.
"""

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.ports import choose_free_port
from tests.waiting import wait_until_blocking

STOP_SECONDS = 10


def redis_server_binary() -> str | None:
    """The path of redis-server, or None where there is none."""
    return shutil.which("redis-server")


class RedisProcess:
    """One redis-server on a loopback port and a unix socket; both stay the same over `stop` and `start`."""

    def __init__(self, *options: str) -> None:
        self.port = choose_free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        # Not in pytest's tmp_path: the path of a unix socket may have at most about 100 characters.
        self._directory = tempfile.mkdtemp(prefix="pubsub-redis-")
        self.unix_url = f"unix://{self._directory}/redis.sock?db=0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "redis-server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers; without effect while it runs."""
        if self._process is not None:
            return
        binary = redis_server_binary()
        assert binary is not None, "redis-server is not installed"
        log = Path(self._directory) / "redis.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    binary,
                    *("--bind", "127.0.0.1"),
                    *("--port", str(self.port)),
                    *("--unixsocket", f"{self._directory}/redis.sock"),
                    *("--dir", self._directory),
                    *("--save", ""),
                    *("--appendonly", "no"),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until_blocking(self._answers, description=f"redis-server answers on port {self.port}")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}; its log: {log.read_text(errors='replace')}") from None

    def stop(self) -> None:
        """Kill it, as a crash would, and wait until it is gone; without effect when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Stop it for good and remove what it left."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            raise AssertionError(f"redis-server ended with status {status}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
