"""On what a run was made: what anybody needs to know who compares figures."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import psutil

PACKAGES = ("peer-pubsub", "msgspec", "SQLAlchemy", "uvloop")
OTHERS = ("redis", "hiredis", "nats-py", "pika", "rstream")
SERVERS = {
    "redis-server": ("redis-server", "--version"),
    "nats-server": (str(Path(sys.executable).parent / "nats-server"), "--version"),
}
VERSION = re.compile(r"\d+\.\d+\.\d+")
RABBITMQ = "usr/lib/rabbitmq/lib/rabbitmq_server-*"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware, system and software of a run."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    sqlite: str
    packages: dict[str, str]
    others: dict[str, str] = {}
    """Servers and clients of the systems that are measured beside ours."""
    filesystem: str
    load_before: float
    """Processes that wanted to run in the minute before: above 0.5, somebody else was at work."""
    started_at: str

    def __str__(self) -> str:
        return f"{self.what}; {self.when}"

    @property
    def when(self) -> str:
        """The time, and how busy the machine was."""
        return f"load before: {self.load_before:.2f}; {self.started_at}"

    @property
    def what(self) -> str:
        """The machine and its software."""
        packages, others = (
            ", ".join(f"{name} {number}" for name, number in versions.items())
            for versions in (self.packages, self.others)
        )
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GB; Linux {self.kernel}; {self.filesystem}; "
            f"Python {self.python}, SQLite {self.sqlite}, {packages}; "
            f"{others or 'no other systems'}"
        )


def describe(directory: Path) -> Machine:
    """This machine, with the file system that holds `directory`."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / 1e9,
        kernel=platform.release(),
        python=f"{platform.python_version()} {sys.implementation.name}",
        sqlite=sqlite3.sqlite_version,
        packages={name: _version(name) for name in PACKAGES},
        others=_others(),
        filesystem=_filesystem(directory.resolve()),
        load_before=os.getloadavg()[0],
        started_at=_now(),
    )


def later(machine: Machine) -> Machine:
    """The same machine now."""
    return msgspec.structs.replace(machine, load_before=os.getloadavg()[0], started_at=_now())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _others() -> dict[str, str]:
    """What is installed of other systems."""
    found = {name: _version(name) for name in OTHERS}
    for name, command in SERVERS.items():
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            found[name] = numbers[0] if (numbers := VERSION.findall(said)) else "unknown"
    for path in Path("/").glob(RABBITMQ):
        found["rabbitmq-server"] = path.name.rpartition("-")[2]
    return {name: number for name, number in found.items() if number != "none"}


def _filesystem(directory: Path) -> str:
    mounts = [m for m in psutil.disk_partitions(all=True) if directory.is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else "unknown file system"
