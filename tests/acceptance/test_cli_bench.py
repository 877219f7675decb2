"""`pubsub bench` against a real index and peer: what it finds, and that it leaves nothing behind."""

import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.site import Running, Site, Terminal
from tests.waiting import wait_until_blocking

QUICK = ("bench", "--seconds", "0.5", "--timeout", "20")
LONG = ("bench", "--seconds", "600", "--timeout", "20")
END_SECONDS = 60.0


def bench(site: Site, *arguments: str) -> dict[str, Any]:
    """Measure; all must be well, and nothing be said but the one object."""
    done = site.run(*QUICK, *arguments, "--json", seconds=END_SECONDS)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert done.stdout.count(b"\n") == 1
    return dict(json.loads(done.stdout))


def topics(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.ok("topic", "list", "--json").splitlines()]


def bench_topic(site: Site) -> dict[str, Any] | None:
    """The topic that a measurement has made."""
    return next((topic for topic in topics(site) if topic["topic"].startswith("bench-")), None)


def wait_until_it_publishes(site: Site) -> str:
    """Wait until a measurement is under way; returns its topic. The first message only warms up."""

    def publishing() -> str | None:
        topic = bench_topic(site)
        return topic["topic"] if topic is not None and (topic["next_offset"] or 0) > 1000 else None

    return wait_until_blocking(publishing, 30) or ""


def workers_of(running: Running) -> list[psutil.Process]:
    return psutil.Process(running.pid).children(recursive=True)


def takes_signals(running: Running) -> bool:
    """Whether every signal sent so far has arrived."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    return re.findall(r"^(?:SigPnd|ShdPnd):\s*(\S+)$", status, re.M) == ["0" * 16] * 2


@contextlib.contextmanager
def suspended(*workers: psutil.Process) -> Iterator[None]:
    """Workers that do nothing for a while."""
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()


def plays_subscribers(worker: psutil.Process) -> bool:
    return '"publish":false' in " ".join(worker.cmdline())


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_flat_out_every_subscriber_gets_all_and_the_topic_is_deleted(site: Site) -> None:
    found = bench(site, "--publishers", "2", "--subscribers", "3", "--size", "1KiB")
    assert found["owner"] == "alice"
    assert (found["publishers"], found["subscribers"], found["size_bytes"]) == (2, 3, 1024)
    assert found["published"] >= 1000
    assert found["delivered"] == 3 * found["published"]
    assert (found["lost"], found["doubled"], found["out_of_order"], found["undelivered"]) == (0, 0, 0, 0)
    assert found["interrupted"] is False
    assert found["published_per_second"] == pytest.approx(found["published"] / found["seconds"], rel=0.01)
    for latency in (found["ack_ms"], found["delivery_ms"]):
        values = [latency[name] for name in ("p50", "p90", "p99", "p99_9", "max")]
        assert values[0] > 0
        assert values == sorted(values)
    assert topics(site) == []


def test_at_a_rate_exactly_what_was_due_is_published(shared_site: Site) -> None:
    found = bench(shared_site, "--publishers", "3", "--rate", "200/s")
    assert (found["rate"], found["published"], found["delivered"]) == (200, 100, 100)


def test_more_members_than_processes_share_them(shared_site: Site) -> None:
    found = bench(shared_site, "--publishers", "6", "--subscribers", "20", "--rate", "240")
    assert (found["published"], found["delivered"], found["lost"]) == (120, 2400, 0)


def test_people_get_counts_percentiles_and_a_histogram_in_plain_text(shared_site: Site) -> None:
    text = shared_site.ok(*QUICK, "--rate", "100")
    for part in (r"^published +50 in ", r"^lost +0$", r"^doubled +0$", r"^out of order +0$"):
        assert re.search(part, text, re.M), text
    assert re.search(r"^latency, ms +p50 +p90 +p99 +p99\.9 +max$", text, re.M)
    assert re.search(r"^up to ms +acknowledgement +delivery$", text, re.M)
    assert re.search(r"^[\d.]+ +#+ +[\d.]+%", text, re.M)
    assert text.isascii()


def test_a_terminal_shows_live_rates_and_a_drawn_histogram(shared_site: Site) -> None:
    terminal = Terminal()
    measuring = shared_site.start(*QUICK, stdout=terminal.slave, stderr=terminal.slave)
    code = measuring.ended(END_SECONDS)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.close())
    assert code == 0, shown
    assert re.search(r"publishing .* [\d,]+/s published, [\d,]+/s delivered", shown)
    assert "█" in shown
    assert "───" in shown


def test_a_topic_that_is_there_is_used_and_stays_with_the_messages_of_others(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "there")
    site.ok("publish", "there", "mine")
    found = bench(site, "--topic", "there", "--rate", "100")
    assert (found["topic"], found["published"], found["delivered"], found["lost"]) == ("there", 50, 50, 0)
    assert site.ok("query", "there", "--limit", "1", "--format", "raw") == "mine\n"
    assert json.loads(site.ok("topic", "show", "there", "--json"))["next_offset"] == 1 + 1 + 50


def test_a_topic_that_is_named_and_missing_is_made_and_deleted(shared_site: Site) -> None:
    assert bench(shared_site, "--topic", "made.up", "--on", "alice", "--rate", "100")["topic"] == "made.up"
    assert "made.up" not in {topic["topic"] for topic in topics(shared_site)}


def test_keep_topic_keeps_it(shared_site: Site) -> None:
    name = bench(shared_site, "--rate", "100", "--keep-topic")["topic"]
    assert re.fullmatch(r"bench-[0-9a-f]{8}", name)
    shared_site.ok("topic", "delete", name)


def test_two_measurements_of_one_topic_do_not_take_each_others_messages(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "both")
    command = (*QUICK, "--topic", "both", "--rate", "200", "--json")
    running = [site.start(*command) for _ in range(2)]
    assert [one.ended(END_SECONDS) for one in running] == [0, 0]
    for one in running:
        found = json.loads(one.out)
        assert (found["published"], found["delivered"], found["lost"]) == (100, 100, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_what_was_measured_so_far(number: signal.Signals, site: Site) -> None:
    measuring = site.start(*LONG, "--json")
    wait_until_it_publishes(site)
    workers = workers_of(measuring)
    assert len(workers) == 2
    measuring.signal(number)
    assert measuring.ended(END_SECONDS) == 128 + number
    found = json.loads(measuring.out)
    assert found["interrupted"] is True
    assert found["published"] > 0
    assert (found["delivered"], found["lost"]) == (found["published"], 0)
    assert measuring.err == ""
    assert topics(site) == []
    assert are_gone(workers)


def test_ctrl_c_before_anything_is_published_leaves_nothing_behind(site: Site) -> None:
    measuring = site.start(*LONG)
    wait_until_blocking(lambda: bench_topic(site))
    measuring.signal(signal.SIGINT)
    assert measuring.ended(END_SECONDS) == 130
    assert "Traceback" not in measuring.err
    assert topics(site) == []


def test_a_second_ctrl_c_does_not_wait_and_still_cleans_up(site: Site) -> None:
    measuring = site.start(*LONG, "--subscribers", "2")
    wait_until_it_publishes(site)
    workers = workers_of(measuring)
    with suspended(*workers):  # nobody comes to an end by himself
        measuring.signal(signal.SIGINT)
        wait_until_blocking(lambda: takes_signals(measuring))  # two at once would count as one
        measuring.signal(signal.SIGINT)
        assert measuring.ended(END_SECONDS) == 130
    assert (measuring.out, measuring.err) == ("", "")
    assert topics(site) == []
    assert are_gone(workers)


def test_ctrl_c_while_deliveries_are_waited_for_tells_what_is_undelivered(site: Site) -> None:
    measuring = site.start(*LONG, "--json")
    wait_until_it_publishes(site)
    publisher, subscriber = sorted(workers_of(measuring), key=plays_subscribers)
    with suspended(subscriber):
        measuring.signal(signal.SIGINT)
        wait_until_blocking(lambda: are_gone([publisher]), 30)  # it has reported
        measuring.signal(signal.SIGINT)
        wait_until_blocking(lambda: takes_signals(measuring))
    assert measuring.ended(END_SECONDS) == 130
    found = json.loads(measuring.out)
    assert (found["interrupted"], found["lost"], found["doubled"]) == (True, 0, 0)
    assert found["delivered"] + found["undelivered"] == found["published"]
    assert topics(site) == []


def test_workers_do_not_outlive_a_measurement_that_is_killed(site: Site) -> None:
    measuring = site.start(*LONG)
    wait_until_it_publishes(site)
    workers = workers_of(measuring)
    measuring.signal(signal.SIGKILL)
    wait_until_blocking(lambda: are_gone(workers), 20)


def test_a_worker_that_dies_is_told_and_ends_it(site: Site) -> None:
    measuring = site.start(*LONG)
    wait_until_it_publishes(site)
    publisher, _ = sorted(workers_of(measuring), key=plays_subscribers)
    publisher.kill()
    assert measuring.ended(END_SECONDS) == 1
    assert measuring.out == ""
    assert measuring.err == "pubsub: publisher 1 ended with exit code -9 before it had reported\n"
    assert topics(site) == []


def test_a_topic_deleted_by_somebody_else_is_an_error_in_one_line(site: Site) -> None:
    measuring = site.start(*LONG)
    name = wait_until_it_publishes(site)
    site.ok("topic", "delete", name)
    assert measuring.ended(END_SECONDS) == 1
    assert measuring.out == ""
    assert measuring.err.count("\n") == 1
    assert name in measuring.err


def test_a_peer_that_dies_is_an_error_in_one_line(site: Site) -> None:
    peer = site.start_peer("bob")
    measuring = site.start("bench", "--seconds", "600", "--on", "bob", "--timeout", "1")
    wait_until_it_publishes(site)
    peer.signal(signal.SIGKILL)
    assert measuring.ended(END_SECONDS) == 1
    lines = [line for line in measuring.err.splitlines() if "WARNING" not in line]
    assert measuring.out == ""
    assert "Traceback" not in measuring.err
    assert lines[-1].startswith("pubsub: publisher 1: "), measuring.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--on", "nobody"), "no peer nobody is registered"),
        (("--on", "a b"), "'a b' is not a peer name"),
        (("--topic", "a..b"), "'a..b' is not a topic name"),
        (("--topic", "a.>"), "'a.>' is not a topic name"),
        (("--topic", "a.dead"), "reserved"),
        (("--topic", "owned", "--on", "alicia"), "owned by alice, not by alicia"),
        (("--index", "127.0.0.1:1", "--timeout", "0.3"), "no index answers"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    arguments: tuple[str, ...], named: str, shared_site: Site
) -> None:
    shared_site.run("topic", "create", "owned")
    done: subprocess.CompletedProcess[bytes] = shared_site.run(*QUICK, *arguments, seconds=END_SECONDS)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert named in done.stderr.decode()
