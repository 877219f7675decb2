"""Where one measurement happens: a directory of its own, and the processes started in it.

Every process is ended by its id when the measurement is over, however it ended, and the directory removed. A server
that serves other measurements too (`kept`) has a stage of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
import psutil

from benchmarks.readings import Figures, RunFailedError

if TYPE_CHECKING:
    from benchmarks.kept import Kept

READY_SECONDS = 60.0
END_SECONDS = 10.0
RESULT_SECONDS = 600.0
DEBUGGING = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC")
LINE_BYTES = 1 << 26
"""A worker's result is one line, and may hold a latency for each message."""


class Child:
    """A process that the measurement started."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, errors: Path, *, starts_others: bool = False
    ) -> None:
        self.name = name
        self._starts_others = starts_others
        self.process = process
        self.errors = errors
        self._ps = psutil.Process(process.pid)

    def rss_mb(self) -> float:
        """Resident memory, in 10^6 bytes; with that of the processes that it started itself."""
        return sum(float(process.memory_info().rss) for process in self._family()) / 1e6

    def cpu_seconds(self) -> float:
        """User and system time so far; with that of the processes that it started itself."""
        times = [process.cpu_times() for process in self._family()]
        return sum(float(each.user + each.system) for each in times)

    def _family(self) -> list[psutil.Process]:
        return [self._ps, *(self._ps.children(recursive=True) if self._starts_others else ())]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def suspend(self) -> None:
        """Let it do nothing, with the processes that it started itself, until `resume`."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on. Idempotent."""
        self._signal_family(signal.SIGCONT)

    def _signal_family(self, number: int) -> None:
        if self.process.returncode is None:
            for process in self._family():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def said(self) -> str:
        """The end of what it wrote to stderr."""
        return self.errors.read_text(errors="replace")[-2000:].strip()

    async def end(self) -> None:
        """Ask it to end, then make it. What is more than one process is not asked: that may take it seconds."""
        if self._starts_others and self.process.returncode is None:
            for process in self._ps.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        for number in (signal.SIGCONT, signal.SIGTERM):  # a stopped process would not hear the second
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Worker(Child):
    """A process of ours that plays a part (`benchmarks.worker`): it gets ready, waits for `go`, and reports."""

    async def ready(self) -> dict[str, Any]:
        """Wait until it is; returns what it says of itself."""
        return await self._line(READY_SECONDS)

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")

    async def result(self, timeout_seconds: float = RESULT_SECONDS) -> dict[str, Any]:
        """What it found.

        Raises:
            RunFailedError: it failed, was killed, or is not done in time.
        """
        found = await self._line(timeout_seconds)
        if "failed" in found:
            raise RunFailedError(f"{self.name}: {found['failed']}")
        return found

    async def run(self) -> dict[str, Any]:
        """Ready, go, result."""
        await self.ready()
        self.go()
        return await self.result()

    async def _line(self, timeout_seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout_seconds):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise RunFailedError(
                f"{self.name} said nothing for {timeout_seconds:g} s: {self.said()}"
            ) from None
        if not line:
            raise RunFailedError(f"{self.name} ended: {self.said()}")
        return msgspec.json.decode(line, type=dict[str, Any])


class Stage:
    """One measurement's directory and processes. Use it as `async with Stage(...) as stage:`."""

    def __init__(
        self, *, quick: bool, long: bool = False, parent: Path | None = None, kept: Kept | None = None
    ) -> None:
        self.quick = quick
        self.kept = kept
        """What serves other measurements too."""
        self._long = long
        self._parent = parent
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="pubsub-bench-", dir=self._parent))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            await child.end()
        if self.kept is not None and kind is None:
            self.kept.suspend()
        elif self.kept is not None:
            await self.kept.end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def size(self, full: int, quick: int, long: int | None = None) -> int:
        """How much of something, by how long the whole may take."""
        if self.quick:
            return quick
        return full if long is None or not self._long else long

    async def command(
        self,
        name: str,
        *argv: str,
        environment: dict[str, str] | None = None,
        starts_others: bool = False,
    ) -> Child:
        """Start a server, with `environment` besides ours.

        `starts_others`: it is more than one process, and none of them minds being killed.
        """
        started = await self._start(name, argv, asyncio.subprocess.DEVNULL, environment)
        child = Child(name, *started, starts_others=starts_others)
        self._children.append(child)
        return child

    async def worker(self, part: str, **task: Any) -> Worker:
        """Start a process that plays `part`; `task` says how."""
        argv = (sys.executable, "-m", "benchmarks.worker", part, msgspec.json.encode(task).decode())
        worker = Worker(part, *await self._start(part, argv, asyncio.subprocess.PIPE))
        self._children.append(worker)
        return worker

    async def _start(
        self, name: str, argv: tuple[str, ...], pipe: int, environment: dict[str, str] | None = None
    ) -> tuple[asyncio.subprocess.Process, Path]:
        errors = self.directory / f"{name}-{len(self._children)}.stderr"
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=pipe,
                stdout=pipe,
                stderr=stderr,
                limit=LINE_BYTES,
                env=_environment() | (environment or {}),
            )
        return process, errors


def _environment() -> dict[str, str]:
    """Ours, with this checkout importable, and nothing that makes Python slower."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    ours = {name: value for name, value in os.environ.items() if name not in DEBUGGING}
    return ours | {"PYTHONPATH": f"{here}{os.pathsep}{path}" if path else here}


def free_port() -> int:
    """A loopback port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_figures(messages: int, **seconds: float) -> Figures:
    """What a message cost each process."""
    return {f"{who} CPU, µs/message": spent / messages * 1e6 for who, spent in seconds.items()}
