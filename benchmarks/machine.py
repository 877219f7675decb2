"""On what a run was made: what anybody needs to know who compares figures."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import psutil

PACKAGES = ("peer-pubsub", "msgspec", "SQLAlchemy", "uvloop")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware, system and software of a run."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    sqlite: str
    packages: dict[str, str]
    filesystem: str
    load_before: float
    """Processes that wanted to run in the minute before: above 0.5, somebody else was at work."""
    started_at: str

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GB; Linux {self.kernel}; {self.filesystem}; "
            f"Python {self.python}, SQLite {self.sqlite}, {packages}; "
            f"load before: {self.load_before:.2f}; {self.started_at}"
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
        filesystem=_filesystem(directory.resolve()),
        load_before=os.getloadavg()[0],
        started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


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


def _filesystem(directory: Path) -> str:
    mounts = [m for m in psutil.disk_partitions(all=True) if directory.is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else "unknown file system"
