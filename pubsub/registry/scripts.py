"""The Lua scripts, each in a file of its own that begins by documenting the key that it touches.

Each touches one key, so that Redis Cluster can run it. They are sent by their digest (EVALSHA), and as a
whole (EVAL) to a server that does not know them yet.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A script's text and the digest under which Redis knows it once loaded."""

    text: str
    sha: str

    def call(self, key: str, *arguments: str | int) -> tuple[str | int, ...]:
        """Make the command that runs it on `key`."""
        return ("EVALSHA", self.sha, 1, key, *arguments)


def _read(name: str) -> Script:
    text = resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


BEGIN_GENERATION = _read("begin_generation")
REGISTER_PEER = _read("register_peer")
HEARTBEAT = _read("heartbeat")
REMOVE_PEER = _read("remove_peer")
SET_DRAINING = _read("set_draining")
COMPARE_AND_SET_TOPIC = _read("compare_and_set_topic")
REPORT_SUBSCRIBERS = _read("report_subscribers")

_TEXTS = {
    script.sha: script.text
    for script in (
        BEGIN_GENERATION,
        REGISTER_PEER,
        HEARTBEAT,
        REMOVE_PEER,
        SET_DRAINING,
        COMPARE_AND_SET_TOPIC,
        REPORT_SUBSCRIBERS,
    )
}


def with_text(command: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Turn a command that runs a script by its digest into one that sends it whole, and so loads it too."""
    return ("EVAL", _TEXTS[str(command[1])], *command[2:])
