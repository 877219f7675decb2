"""Servers that serve a whole run: one of each, suspended between the measurements that use it, ended with the run."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.kept import Kept, Started
from benchmarks.readings import RunFailedError
from benchmarks.stage import Child, Stage
from tests.waiting import wait_until


async def start(stage: Stage) -> Started:
    (stage.directory / "data").mkdir()
    child = await stage.command("server", sys.executable, "-c", "import time; time.sleep(600)")
    return child, {"port": 1}


async def test_a_server_is_started_once_and_suspended_when_a_measurement_is_over(tmp_path: Path):
    async with Kept(tmp_path) as kept:
        async with Stage(quick=True, parent=tmp_path, kept=kept):
            first = await kept.resume("one", start)
        process = psutil.Process(first[0].process.pid)
        await wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        async with Stage(quick=True, parent=tmp_path, kept=kept):
            assert await kept.resume("one", start) == first
            await wait_until(lambda: process.status() != psutil.STATUS_STOPPED)
            other = await kept.resume("other", start)
            assert other[0] is not first[0]
            other[0].process.kill()
            await other[0].process.wait()
        await wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        async with Stage(quick=True, parent=tmp_path, kept=kept):
            another = await kept.resume("other", start)
            assert another[0].process.returncode is None
    assert not process.is_running()
    assert first[0].process.returncode is not None
    assert another[0].process.returncode is not None
    assert list(tmp_path.iterdir()) == []


async def test_a_start_that_fails_leaves_nothing_running_and_may_be_repeated(tmp_path: Path):
    begun: list[Child] = []

    async def fail(stage: Stage) -> Started:
        begun.append((await start(stage))[0])
        raise RunFailedError("it was not ready in time")

    async with Kept(tmp_path) as kept:
        with pytest.raises(RunFailedError):
            await kept.resume("one", fail)
        assert begun[0].process.returncode is not None
        child, _ = await kept.resume("one", start)
        assert child.process.returncode is None


async def test_after_a_measurement_that_failed_a_server_is_started_anew(tmp_path: Path):
    used: list[Child] = []

    async def measure(kept: Kept) -> None:
        async with Stage(quick=True, parent=tmp_path, kept=kept):
            used.append((await kept.resume("one", start))[0])
            raise RunFailedError("1 of 5 messages lost")

    async with Kept(tmp_path) as kept:
        with pytest.raises(RunFailedError):
            await measure(kept)
        assert used[0].process.returncode is not None
        another, _ = await kept.resume("one", start)
        assert another.process.returncode is None
