"""What a person at a terminal sees: tables, colours, a bar; on a pseudo-terminal."""

import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.acceptance.site import Site, Terminal
from tests.waiting import wait_until_blocking

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def on(terminal: Terminal, site: Site, *arguments: str) -> str:
    """Run a command on the terminal; returns what is shown, without colours."""
    running = site.start(*arguments, stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave)
    assert running.ended() == 0
    return COLOUR.sub("", terminal.text)


def test_lists_are_tables_on_a_terminal(shared_site: Site, terminal: Terminal) -> None:
    shared_site.ok("topic", "create", "tabled")
    shown = on(terminal, shared_site, "topic", "list", "tabled")
    assert "next offset" in shown
    assert "───" in shown
    assert re.search(r"tabled +alice +1 +yes +0", shown)
    assert COLOUR.search(terminal.text)


def test_pretty_messages_have_colours_on_a_terminal(shared_site: Site, terminal: Terminal) -> None:
    shared_site.ok("topic", "create", "coloured")
    shared_site.ok("publish", "coloured", "hello", "--key", "k")
    assert "key=k  hello" in on(terminal, shared_site, "query", "coloured")
    assert COLOUR.search(terminal.text)


def test_a_query_that_ends_at_its_limit_says_how_to_see_more(shared_site: Site, terminal: Terminal) -> None:
    shared_site.ok("topic", "create", "limited")
    shared_site.ok("publish", "limited", "a", "b")
    assert "--from 1" in on(terminal, shared_site, "query", "limited", "--limit", "1")


def test_help_is_drawn_on_a_terminal_and_keeps_its_examples(shared_site: Site, terminal: Terminal) -> None:
    shown = on(terminal, shared_site, "publish", "--help")
    assert "╭─ Options" in shown
    assert re.search(
        r"^ +pubsub publish sensors\.temp 21\.5 21\.7 --key room-1 --header unit=C *\r?$", shown, re.M
    )


def test_publishing_a_file_shows_a_bar_on_a_terminal(shared_site: Site, terminal: Terminal) -> None:
    site = shared_site
    site.ok("topic", "create", "barred")
    (site.directory / "thousand").write_bytes(b"line\n" * 1000)
    with (site.directory / "thousand").open("rb") as lines:
        publisher = site.start("publish", "barred", stdin=lines, stderr=terminal.slave)
        assert publisher.ended() == 0
    assert publisher.out == "published 1000 messages to barred, offsets 0..999\n"
    shown = COLOUR.sub("", terminal.text)
    assert "1,000 messages acknowledged" in shown
    assert "100%" in shown


def test_without_a_terminal_there_is_no_bar(shared_site: Site) -> None:
    shared_site.ok("topic", "create", "barless")
    assert shared_site.run("publish", "barless", stdin=b"x\n").stderr == b""


def test_lines_may_be_typed(shared_site: Site, terminal: Terminal) -> None:
    site = shared_site
    site.ok("topic", "create", "typed")
    publisher = site.start(
        "publish", "typed", stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave
    )
    wait_until_blocking(lambda: "Ctrl-D ends" in terminal.text)
    terminal.type(b"hello\n")
    wait_until_blocking(lambda: "hello" in site.ok("query", "typed"))
    terminal.type(b"\x04")
    assert publisher.ended() == 0
    assert "published 1 message to typed, offset 0" in terminal.text


def test_ctrl_c_leaves_the_terminal_with_one_line(shared_site: Site, terminal: Terminal) -> None:
    site = shared_site
    site.ok("topic", "create", "stopped")
    publisher = site.start("publish", "stopped", stdin=subprocess.PIPE, stderr=terminal.slave)
    publisher.write(b"x\n")
    wait_until_blocking(lambda: site.ok("query", "stopped"))
    publisher.signal(signal.SIGINT)
    assert publisher.ended() == 130
    wait_until_blocking(lambda: "stopped: 1 message was acknowledged, offset 0" in terminal.text)
    assert "Traceback" not in terminal.text
