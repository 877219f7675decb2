"""Streams: lines in, messages out, byte for byte, at once, and quiet ends."""

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from pubsub.config import Limits
from tests.acceptance.site import PUBSUB, Running, Site
from tests.waiting import wait_until_blocking

LINES = 100_000


def pipe_stdin(site: Site, *arguments: str, **options: object) -> Running:
    return site.start(*arguments, stdin=subprocess.PIPE, **options)


def make_file(path: Path) -> bytes:
    chance = random.Random(7)
    lines = [b"%d " % n + chance.randbytes(chance.randrange(120)).replace(b"\n", b"") for n in range(LINES)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path.read_bytes()


def test_a_file_of_100_000_lines_comes_out_byte_for_byte(shared_site: Site) -> None:
    site = shared_site
    content = make_file(site.directory / "lines")
    site.ok("topic", "create", "file")
    arguments = ("subscribe", "file", "--from", "earliest", "--limit", str(LINES), "--format", "raw")
    subscriber = site.start(*arguments)
    with (site.directory / "lines").open("rb") as lines:
        publisher = site.start("publish", "file", stdin=lines)
    assert publisher.ended() == 0
    assert publisher.out == f"published {LINES} messages to file, offsets 0..{LINES - 1}\n"
    assert subscriber.ended() == 0
    assert subscriber.out_bytes == content
    assert publisher.err + subscriber.err == ""


def test_a_query_of_all_is_the_same_file(shared_site: Site) -> None:
    site = shared_site
    content = make_file(site.directory / "lines")
    site.ok("topic", "create", "queried")
    site.ok("publish", "queried", stdin=content)
    done = site.run("query", "queried", "--limit", str(LINES), "--format", "raw")
    assert done.stdout == content


def test_a_line_is_published_at_once_and_printed_at_once(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "live")
    subscriber = site.start("subscribe", "live", "--from", "earliest", "--format", "raw")
    publisher = pipe_stdin(site, "publish", "live", "--json")
    for number in range(3):
        publisher.write(b"line %d\n" % number)
        subscriber.wait_for(f"line {number}")
        assert json.loads(publisher.wait_for(f'"offset":{number}')) == {"topic": "live", "offset": number}
    subscriber.signal(signal.SIGINT)
    assert subscriber.ended() == 130
    assert subscriber.err == ""


def test_ctrl_c_on_publish_says_how_many_were_acknowledged(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "interrupted")
    publisher = pipe_stdin(site, "publish", "interrupted")
    publisher.write(b"a\nb\nunfinished")
    wait_until_blocking(lambda: len(site.ok("query", "interrupted").splitlines()) == 2)
    publisher.signal(signal.SIGINT)
    assert publisher.ended() == 130
    assert publisher.out == ""
    assert publisher.err == "pubsub: stopped: 2 messages were acknowledged, offsets 0..1\n"
    assert site.ok("query", "interrupted", "--format", "raw") == "a\nb\n"


def test_ctrl_c_in_a_flood_says_exactly_how_many_are_stored(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "flood")
    with subprocess.Popen(["yes", "0123456789"], stdout=subprocess.PIPE) as flood:
        publisher = site.start("publish", "flood", stdin=flood.stdout)
        assert flood.stdout is not None
        flood.stdout.close()
        wait_until_blocking(lambda: site.ok("query", "flood", "--limit", "1"))
        publisher.signal(signal.SIGINT)
        assert publisher.ended() == 130
    stored = json.loads(site.ok("topic", "show", "flood", "--json"))["next_offset"]
    assert publisher.err == f"pubsub: stopped: {stored} messages were acknowledged, offsets 0..{stored - 1}\n"


def test_sigterm_on_publish_is_clean_too(shared_site: Site) -> None:
    shared_site.ok("topic", "create", "terminated")
    publisher = pipe_stdin(shared_site, "publish", "terminated", "--json")
    publisher.write(b"a\n")
    publisher.wait_for('"offset":0')
    publisher.signal(signal.SIGTERM)
    assert publisher.ended() == 143
    assert "1 message was acknowledged" in publisher.err


@pytest.mark.parametrize("ending", [b"\nafter\n", b""])
def test_a_line_that_is_too_large_names_the_limit_and_what_was_acknowledged(
    ending: bytes, shared_site: Site
) -> None:
    site, topic = shared_site, f"large{len(ending)}"
    site.ok("topic", "create", topic)
    limit_bytes = Limits().message_bytes
    done = site.run("publish", topic, stdin=b"a\nb\n" + b"x" * (limit_bytes + 1) + ending)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == (
        f"pubsub: line 3 is too large: at most {limit_bytes} bytes, with key and headers; "
        "2 messages were acknowledged, offsets 0..1\n"
    )
    assert site.ok("query", topic, "--format", "raw") == "a\nb\n"


def test_a_line_of_exactly_the_limit_is_published(shared_site: Site) -> None:
    shared_site.ok("topic", "create", "exact")
    shared_site.ok("publish", "exact", stdin=b"x" * Limits().message_bytes + b"\n")
    shared_site.ok("publish", "exact", stdin=b"y" * Limits().message_bytes)
    assert json.loads(shared_site.ok("topic", "show", "exact", "--json"))["next_offset"] == 2


def test_an_argument_that_is_too_large_is_named_and_the_others_are_told(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "argument")
    # The kernel allows 128 KiB for one argument; a header of that size, and a key, make it too large together.
    large = "x" * 130_000
    headers = [part for n in range(9) for part in ("--header", f"h{n}={large}")]
    done = site.run("publish", "argument", "a", *headers)
    assert done.returncode == 1
    assert b"message 1 is too large: at most 1048576 bytes" in done.stderr


def test_subscribe_ends_quietly_and_at_once_when_its_reader_goes_away(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "head")
    site.ok("publish", "head", "first")
    reading, writing = os.pipe()
    subscriber = site.start("subscribe", "head", "--from", "earliest", "--format", "raw", stdout=writing)
    os.close(writing)
    assert os.read(reading, 100) == b"first\n"
    os.close(reading)  # nothing more is published: it must notice by itself
    assert subscriber.ended(10) == 0
    assert subscriber.err == ""


@pytest.mark.parametrize("command", ["subscribe", "query"])
@pytest.mark.parametrize("format_", ["raw", "json", "pretty"])
def test_a_full_pipe_into_head_is_quiet(command: str, format_: str, shared_site: Site) -> None:
    site = shared_site
    if site.run("topic", "create", "full").returncode == 0:
        site.ok("publish", "full", stdin=b"0123456789\n" * 20_000)
    arguments = ("--from", "earliest", "--limit", "20000", "--format", format_)
    assert pipe_to_head(site, command, "full", *arguments) == (0, 1, "")


def pipe_to_head(site: Site, *arguments: str) -> tuple[int, int, str]:
    """Returns: the exit code of pubsub, how many lines head printed, and what either said on stderr."""
    environment = {**os.environ, "PUBSUB_INDEX": site.index}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*PUBSUB, *arguments], env=environment, **streams) as command:
        head = subprocess.run(
            ["head", "-n", "1"], stdin=command.stdout, capture_output=True, check=True, timeout=30
        )
        assert command.stdout is not None
        command.stdout.close()
        assert command.stderr is not None
        said = command.stderr.read()
        code = command.wait(30)
    return code, head.stdout.count(b"\n"), (said + head.stderr).decode()


def test_publish_stops_quietly_when_nobody_reads_its_offsets(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "unread")
    (site.directory / "many").write_bytes(b"x\n" * 50_000)
    with (site.directory / "many").open("rb") as lines:
        reading, writing = os.pipe()
        publisher = site.start("publish", "unread", "--json", stdin=lines, stdout=writing)
        os.close(writing)
        os.read(reading, 10)
        os.close(reading)
    assert publisher.ended() == 141
    assert publisher.err == ""


def test_a_reader_that_pauses_stops_nothing_but_the_printing(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "paused")
    site.ok("publish", "paused", stdin=b"0123456789\n" * 20_000)
    reading, writing = os.pipe()
    subscriber = site.start("subscribe", "paused", "--from", "earliest", "--format", "raw", stdout=writing)
    os.close(writing)
    assert os.read(reading, 11) == b"0123456789\n"
    subscriber.signal(signal.SIGINT)  # although the pipe is full
    assert subscriber.ended(10) == 130
    assert subscriber.err == ""
    os.close(reading)


def test_a_closed_stdout_is_quiet(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "closed")
    script = f"{' '.join(PUBSUB)} publish closed x >&-; {' '.join(PUBSUB)} query closed >&-"
    done = subprocess.run(
        ["/bin/sh", "-ec", script],
        env={**os.environ, "PUBSUB_INDEX": site.index},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert site.ok("query", "closed", "--format", "raw") == "x\n"


def test_a_closed_stdin_is_a_usage_error(shared_site: Site) -> None:
    script = f"{' '.join(PUBSUB)} publish closed <&-"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"standard input" in done.stderr
