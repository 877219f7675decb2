"""Readings of this machine: load, memory, disk and network counters, as they are at the moment of asking.

From /proc where there is one (Linux); elsewhere what the standard library knows. What a machine cannot tell is
left out of the reading.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

Reading = dict[str, float]

_PROC = Path("/proc")
_MEMORY_FIELDS = ("MemTotal", "MemFree", "MemAvailable", "Cached", "Dirty", "SwapFree")
_SECTOR_BYTES = 512  # the unit of /proc/diskstats, whatever the disk's own is


def read_load() -> Reading:
    """Load averages, and CPU time used since the start, in seconds."""
    reading: Reading = {}
    with contextlib.suppress(OSError, AttributeError):
        reading |= zip(("load_1", "load_5", "load_15"), os.getloadavg(), strict=True)
    for line in _lines(_PROC / "stat"):
        if line.startswith("cpu "):
            ticks = os.sysconf("SC_CLK_TCK")
            user, _nice, system, idle, *_ = map(int, line.split()[1:])
            reading |= {"user_s": user / ticks, "system_s": system / ticks, "idle_s": idle / ticks}
            break
    else:
        reading["process_s"] = time.process_time()
    return reading | {"cpus": os.cpu_count() or 1}


def read_memory() -> Reading:
    """Memory in bytes."""
    found: Reading = {}
    for line in _lines(_PROC / "meminfo"):
        name, _, value = line.partition(":")
        if name in _MEMORY_FIELDS:
            found[name] = int(value.split()[0]) * 1024
    if found:
        return found
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found["MemTotal"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found


def read_traffic() -> Reading:
    """Disk space, bytes read and written, and bytes received and sent, over all devices."""
    disk = shutil.disk_usage("/")
    reading: Reading = {"disk_free": disk.free, "disk_used": disk.used}
    return _network() | reading | _disks()


def _network() -> Reading:
    devices = [line.partition(":")[2].split() for line in _lines(_PROC / "net" / "dev")[2:]]
    if not devices:
        return {}
    return {
        "net_received": sum(int(counters[0]) for counters in devices),
        "net_sent": sum(int(counters[8]) for counters in devices),
    }


def _disks() -> Reading:
    devices = [line.split() for line in _lines(_PROC / "diskstats")]
    disks = [fields for fields in devices if not fields[2].startswith(("loop", "ram"))]
    if not disks:
        return {}
    return {
        "disk_read": sum(int(fields[5]) for fields in disks) * _SECTOR_BYTES,
        "disk_written": sum(int(fields[9]) for fields in disks) * _SECTOR_BYTES,
    }


_ACTIVITY_FIELDS = {
    "ctxt": "context_switches",
    "processes": "forks",
    "procs_running": "running",
    "procs_blocked": "blocked",
}


def read_activity() -> Reading:
    """Context switches and processes started since the start, and processes that run or wait for a disk now."""
    found: Reading = {}
    for line in _lines(_PROC / "stat"):
        name, _, value = line.partition(" ")
        if name in _ACTIVITY_FIELDS:
            found[_ACTIVITY_FIELDS[name]] = int(value)
    if found:
        return found
    times = os.times()
    return {"user_s": times.user, "system_s": times.system, "elapsed_s": times.elapsed}


SOURCES: dict[str, Callable[[], Reading]] = {
    "machine.load": read_load,
    "machine.memory": read_memory,
    "machine.traffic": read_traffic,
    "machine.activity": read_activity,
}
"""What is published to each topic of the demo."""


def describe(reading: Reading) -> str:
    """A reading in a few words, for a table."""
    return "  ".join(f"{name} {_short(value)}" for name, value in list(reading.items())[:4])


def _short(value: float) -> str:
    for unit, size in (("G", 2**30), ("M", 2**20)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.10g}" if value == int(value) else f"{value:.2f}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
