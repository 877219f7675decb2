"""The hello at the start of each connection, and which frames may follow it.

The legal order is a table (`ACCEPTED`): what a server of each role accepts after the hello. Any other frame
is answered by an error frame, and the connection is closed.
"""

from __future__ import annotations

from pubsub.errors import RemoteProtocolError, UnsupportedVersionError
from pubsub.protocol import messages as m
from pubsub.version import __version__

_DIRECTORY: frozenset[type] = frozenset(
    {m.Lookup, m.Topics, m.Peers, m.CreateTopic, m.DeleteTopic, m.Watch, m.Status, m.Publish, m.Query}
    | {m.ChangeReplicas, m.Promote, m.Drain}
)

ACCEPTED: dict[str, frozenset[type]] = {
    "index": _DIRECTORY | {m.Register, m.Heartbeat, m.Announce, m.Leave, m.Propose},
    "peer": _DIRECTORY
    | {m.Subscribe, m.Unsubscribe, m.Credit, m.CreateCopy, m.DropCopy, m.Held, m.CopyEnds, m.HandOver}
    | {m.JoinGroup, m.Settle, m.Groups, m.ChangeGroup, m.PeekGroup}
    | {m.CommitCursor, m.Cursors, m.ChangeCursor, m.Scheduled, m.CancelScheduled, m.SetPolicy}
    | {m.Follow, m.Progress, m.Orphans, m.Verify},
}
"""Role of the server -> frames that it accepts once hello has been said."""


def hello(role: str, name: str = "") -> m.Hello:
    """The first frame of this software as a client of a connection."""
    return m.Hello(
        major=m.PROTOCOL_MAJOR, minor=m.PROTOCOL_MINOR, software=f"pubsub {__version__}", role=role, name=name
    )


def check_hello(frame: m.Frame) -> m.Hello:
    """Return the hello with which the other end opened.

    Raises:
        RemoteProtocolError: the frame is no hello.
        UnsupportedVersionError: its major version is not ours; the message names both.
    """
    if not isinstance(frame, m.Hello) or frame.magic != "pubsub":
        raise RemoteProtocolError(f"the first frame must be hello, not {type(frame).__name__}")
    _check_major(frame.major, frame.minor, frame.software)
    return frame


def check_welcome(frame: m.Frame) -> m.Welcome:
    """Return the welcome with which a server answered our hello.

    Raises:
        RemoteProtocolError: the frame is no welcome.
        UnsupportedVersionError: its major version is not ours; the message names both.
    """
    if not isinstance(frame, m.Welcome) or frame.magic != "pubsub":
        raise RemoteProtocolError(f"the answer to hello must be welcome, not {type(frame).__name__}")
    _check_major(frame.major, frame.minor, frame.software)
    return frame


def _check_major(major: int, minor: int, software: str) -> None:
    if major != m.PROTOCOL_MAJOR:
        raise UnsupportedVersionError(
            f"{software} speaks protocol {major}.{minor}, "
            f"pubsub {__version__} speaks {m.PROTOCOL_MAJOR}.{m.PROTOCOL_MINOR}: "
            "upgrade the older of the two",
            theirs=f"{major}.{minor}",
            ours=f"{m.PROTOCOL_MAJOR}.{m.PROTOCOL_MINOR}",
        )
