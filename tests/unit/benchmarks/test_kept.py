"""Servers that serve a whole run: one of each, suspended between the measurements that use it, ended with the run."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from benchmarks.kept import Kept, Started
from benchmarks.stage import Stage


async def start(stage: Stage) -> Started:
    child = await stage.command("server", sys.executable, "-c", "import time; time.sleep(600)")
    return child, {"port": 1}


async def test_a_server_is_started_once_and_suspended_when_a_measurement_is_over(tmp_path: Path):
    async with Kept(tmp_path) as kept:
        async with Stage(quick=True, parent=tmp_path, kept=kept):
            first = await kept.resume("one", start)
        process = psutil.Process(first[0].process.pid)
        assert process.status() == psutil.STATUS_STOPPED
        async with Stage(quick=True, parent=tmp_path, kept=kept):
            assert await kept.resume("one", start) == first
            assert process.status() != psutil.STATUS_STOPPED
            other = await kept.resume("other", start)
            assert other[0] is not first[0]
            other[0].process.kill()
            await other[0].process.wait()
        assert process.status() == psutil.STATUS_STOPPED
        async with Stage(quick=True, parent=tmp_path, kept=kept):
            another = await kept.resume("other", start)
            assert another[0].process.returncode is None
    assert not process.is_running()
    assert first[0].process.returncode is not None
    assert another[0].process.returncode is not None
    assert list(tmp_path.iterdir()) == []
