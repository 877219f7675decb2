"""A site of real processes for the command line's tests: an index, peers, and commands run against them.

Owns starting them, their output, and ending them by process id. Nothing here is asynchronous: a test of a command
is a test of what a shell sees.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import wait_until_blocking

PUBSUB = (sys.executable, "-m", "pubsub")
READY_SECONDS = 20.0
RUN_SECONDS = 60.0


class Running:
    """A command that runs: what it has said so far, signals, its end."""

    def __init__(
        self, *arguments: str, python: tuple[str, ...] = (), module: bool = True, **options: object
    ) -> None:
        self.arguments = arguments
        command = [sys.executable, *python, *(("-m", "pubsub") if module else ()), *arguments]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(command, **(streams | options))  # type: ignore[call-overload]
        self._out, self._err = bytearray(), bytearray()
        self._threads = [
            threading.Thread(target=self._listen, args=(stream, kept), daemon=True)
            for stream, kept in ((self.process.stdout, self._out), (self.process.stderr, self._err))
            if stream is not None
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, stream: object, kept: bytearray) -> None:
        with contextlib.suppress(ValueError, OSError):  # the test has closed it
            while data := os.read(stream.fileno(), 65536):  # type: ignore[attr-defined]
                kept.extend(data)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return bytes(self._out).decode(errors="replace")

    @property
    def out_bytes(self) -> bytes:
        return bytes(self._out)

    @property
    def err(self) -> str:
        return bytes(self._err).decode(errors="replace")

    def wait_for(self, text: str, seconds: float = READY_SECONDS) -> str:
        """Wait until `text` has been printed on either stream; returns its line."""

        def line() -> str | None:
            said = (self.out + self.err).splitlines()
            found = next((line for line in said if text in line), None)
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"{self.arguments} ended without {text!r}: {self.out}{self.err}")
            return found

        return wait_until_blocking(line, seconds, f"{self.arguments} prints {text!r}") or ""

    def write(self, data: bytes) -> None:
        """Write to its stdin, a pipe."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = RUN_SECONDS) -> int:
        """Wait for its end, and for all it had to say; returns the exit code, negative for a signal."""
        code = self.process.wait(seconds)
        for thread in self._threads:
            thread.join(seconds)
        return code

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
        self.process.wait(RUN_SECONDS)
        for thread in self._threads:
            thread.join(RUN_SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Site:
    """An index with an embedded registry and, once asked for, peers; and commands that talk to them."""

    def __init__(self, directory: Path, *, ttl: float = 6) -> None:
        self.directory = directory
        self.ttl = ttl
        self.index = ""
        self.registry = ""
        self._all: list[Running] = []

    def start(self, *arguments: str, **options: object) -> Running:
        """Start a command against this site; it ends with the site."""
        environment = {**os.environ, "PUBSUB_INDEX": self.index, "COLUMNS": "200"}
        started = Running(*arguments, cwd=self.directory, env=environment, **options)
        self._all.append(started)
        return started

    def start_index(self) -> Running:
        index = self.start(
            *("index", "serve", "--listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0"),
            *("--ttl", str(self.ttl)),
        )
        words = index.wait_for("index serves").split()
        self.index = words[2].rstrip(",")
        self.registry = words[words.index("on") + 1]
        return index

    def start_peer(self, name: str, *arguments: str, **options: object) -> Running:
        peer = self.start("peer", "serve", name, "--data", name, *arguments, **options)
        peer.wait_for(f"peer {name} serves")
        return peer

    def run(
        self, *arguments: str, stdin: bytes | None = None, seconds: float = RUN_SECONDS
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        return subprocess.run(
            [*PUBSUB, *arguments],
            cwd=self.directory,
            env={**os.environ, "PUBSUB_INDEX": self.index, "COLUMNS": "200"},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=seconds,
            check=False,
        )

    def ok(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run a command that must succeed without a word on stderr; returns what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), (arguments, done.stderr)
        return done.stdout.decode()

    def close(self) -> None:
        for running in reversed(self._all):
            running.close()


@contextlib.contextmanager
def open_site(directory: Path, *peers: str, ttl: float = 6) -> Iterator[Site]:
    """A site with an index and these peers."""
    site = Site(directory, ttl=ttl)
    try:
        site.start_index()
        for name in peers:
            site.start_peer(name)
        yield site
    finally:
        site.close()


class Terminal:
    """A pseudo-terminal: what a command writes to it, as a person would see it."""

    def __init__(self, columns: int = 120) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # nobody has the other end open any more
            while data := os.read(self._master, 65536):
                self._kept.extend(data)

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    @property
    def text(self) -> str:
        return bytes(self._kept).decode(errors="replace")

    def close(self) -> str:
        """Call it when the command has ended; returns all that was shown."""
        os.close(self.slave)
        self._thread.join(RUN_SECONDS)
        os.close(self._master)
        return self.text
