"""The demo: it loses nothing, ends in time, and leaves nothing behind but what it is told to."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.site import PUBSUB, Running, Terminal
from tests.waiting import wait_until_blocking

MOST_SECONDS = 20.0

pytestmark = pytest.mark.slow


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo makes its temporary directory."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


def start_demo(temporary: Path, *arguments: str, **options: object) -> Running:
    sizes = ("COLUMNS", "LINES")  # of whatever runs the tests; a worker of pytest-xdist has 80
    environment = {name: value for name, value in os.environ.items() if name not in sizes}
    return Running("demo", *arguments, env={**environment, "TMPDIR": str(temporary)}, **options)


def processes_of(directory: Path) -> list[psutil.Process]:
    """Those whose command line names `directory`, or that wrote their log there."""
    return [
        p for p in psutil.process_iter(["cmdline"]) if str(directory) in " ".join(p.info["cmdline"] or ())
    ]


@pytest.fixture
def nothing_left(temporary: Path) -> Iterator[None]:
    yield
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


@pytest.mark.usefixtures("nothing_left")
def test_the_demo_loses_and_doubles_nothing_and_shows_a_live_table(temporary: Path) -> None:
    terminal = Terminal()
    began = time.monotonic()
    demo = start_demo(temporary, "--json", stderr=terminal.slave)
    code = demo.ended(60)
    took = time.monotonic() - began
    demo.close()
    shown = terminal.close()
    assert code == 0, shown
    assert took < MOST_SECONDS
    summary = json.loads(demo.out)
    assert summary["published"] > 1000
    assert summary["delivered"] == 2 * summary["published"]
    assert (summary["lost"], summary["doubled"]) == (0, 0)
    assert summary["rate"] > 0
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert summary["replicated_published"] > 100
    assert (summary["replicated_lost"], summary["replicated_doubled"]) == (0, 0)
    assert summary["old_owner"] == summary["restarted"]
    assert summary["new_owner"] in {"alice", "bob", "carol"} - {summary["old_owner"]}
    assert summary["new_owner"] in summary["in_sync"]
    assert 0 < summary["failover_pause_ms"] < 1000 * MOST_SECONDS
    took_over = f"{summary['new_owner']} owns machine.activity"
    for part in ("machine.load", "subscriber 2", "offline", "kill -9", took_over, "is back"):
        assert part in shown


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_all_its_processes(number: signal.Signals, temporary: Path) -> None:
    demo = start_demo(temporary)
    demo.wait_for("kill -9")  # carol is dead, and who publishes to her topic waits
    started = psutil.Process(demo.pid).children(recursive=True)
    assert len(started) >= 5
    demo.signal(number)
    code = demo.ended(10)
    demo.close()
    assert code == 128 + number
    assert demo.out == ""
    assert "Traceback" not in demo.err
    wait_until_blocking(lambda: not any(map(_runs, started)))


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("nothing_left")
def test_a_demo_that_cannot_go_on_says_why_and_ends_all(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bob").write_text("not a directory")
    demo = start_demo(temporary, "--data", str(tmp_path / "data"))
    code = demo.ended()
    demo.close()
    assert code == 1
    assert demo.out == ""
    assert "the demo cannot go on: bob ended" in demo.err.splitlines()[-1]
    assert processes_of(tmp_path / "data") == []


def test_keep_leaves_all_running_to_look_around_with_the_lines_it_shows(
    temporary: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    demo = start_demo(temporary, "--keep", "--data", str(data))
    code = demo.ended(60)
    demo.close()
    pids = [int(pid) for pid in re.findall(r"\d+", re.findall(r"^End it: kill ([\d ]+)$", demo.out, re.M)[0])]
    try:
        assert code == 0, demo.err
        assert re.search(r"took over; its publisher paused for [\d.]+ s", demo.out)
        assert "on all copies in sync" in demo.out
        assert len(pids) == 6
        assert all(psutil.pid_exists(pid) for pid in pids)
        lines = [line.strip() for line in demo.out.splitlines() if line.startswith("  ")]
        assert {line.split()[0] for line in lines} == {"redis-cli", "sqlite3", "pubsub"}
        for line in lines:
            command = (
                line.replace("pubsub ", f"{' '.join(PUBSUB)} ", 1) if line.startswith("pubsub") else line
            )
            done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
            missing = done.returncode == 127  # redis-cli or sqlite3 is not installed here
            assert missing or (done.returncode == 0 and done.stdout), (line, done)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    wait_until_blocking(lambda: processes_of(data) == [])
    assert (data / "alice" / "peer.db").exists()

    # The same directory again: the topics go on where they were.
    again = start_demo(temporary, "--json", "--data", str(data))
    code = again.ended(60)
    again.close()
    assert code == 0, again.err
    summary = json.loads(again.out)
    assert (summary["lost"], summary["doubled"]) == (0, 0)
    assert summary["new_owner"] not in (None, summary["old_owner"])
