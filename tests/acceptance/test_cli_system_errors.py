"""What the system refuses is told in one plain sentence: no number, no class, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.site import Site

ANYWHERE = ("--registry-listen", "127.0.0.1:0")
NOT_OURS = "192.0.2.1:7470"  # an address for documentation, RFC 5737


def refused(site: Site, *arguments: str, **streams: object) -> str:
    """Run a command that the system refuses something; returns what it says."""
    running = site.start(*arguments, **streams)
    assert running.ended() == 1, running.err
    assert running.out == ""
    assert running.err.startswith("pubsub: ")
    assert running.err.count("\n") == 1, running.err
    for word in ("Errno", "Traceback", "Error(", "error while", "('"):
        assert word not in running.err
    return running.err


def test_an_address_that_cannot_be_listened_on(shared_site: Site) -> None:
    said = refused(shared_site, "index", "serve", "--listen", NOT_OURS, *ANYWHERE)
    assert "cannot listen on 192.0.2.1:7470: Cannot assign requested address" in said


@pytest.mark.parametrize("where", [NOT_OURS, "nowhere.invalid:7479"])
def test_an_address_at_which_the_embedded_registry_cannot_listen(where: str, shared_site: Site) -> None:
    said = refused(shared_site, "index", "serve", "--listen", "127.0.0.1:0", "--registry-listen", where)
    assert f"the embedded registry cannot listen on {where}: " in said


def test_a_port_of_the_embedded_registry_that_is_in_use(shared_site: Site) -> None:
    taken = shared_site.registry
    said = refused(shared_site, "index", "serve", "--listen", "127.0.0.1:0", "--registry-listen", taken)
    assert f"cannot listen on {taken}: Address already in use; stop what listens there" in said


def test_a_redis_that_refuses_connections_is_told_without_the_number_of_the_error(shared_site: Site) -> None:
    index = shared_site.start("index", "serve", "--listen", "127.0.0.1:0", "--redis", "redis://127.0.0.1:1")
    index.wait_for("index serves")
    assert "(connecting to 127.0.0.1:1. Connection refused)" in index.err


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("file", "file is not a directory; give another with --data"),
        ("file/below", "file/below is not a directory; give another with --data"),
        ("/proc/nowhere", "the directory /proc/nowhere cannot be made: No such file or directory"),
    ],
)
def test_a_directory_that_the_demo_cannot_have(data: str, sentence: str, shared_site: Site) -> None:
    (shared_site.directory / "file").write_text("")
    assert refused(shared_site, "demo", "--data", data) == f"pubsub: {sentence}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
@pytest.mark.parametrize("options", [(), ("--atomic",)])
def test_a_standard_input_that_cannot_be_read(options: tuple[str, ...], shared_site: Site) -> None:
    shared_site.run("topic", "create", "unread")
    with Path("/proc/self/mem").open("rb") as unreadable:
        said = refused(shared_site, "publish", "unread", *options, stdin=unreadable)
    assert said == (
        "pubsub: standard input cannot be read: Input/output error; no message was acknowledged\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize(
    "command", [("topic", "list"), ("query", "unprinted"), ("index", "status", "--json")]
)
def test_an_output_on_a_full_disk(command: tuple[str, ...], shared_site: Site) -> None:
    shared_site.run("topic", "create", "unprinted")
    shared_site.run("publish", "unprinted", "x")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pubsub", *command, "--index", shared_site.index],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"pubsub: No space left on device\n")
