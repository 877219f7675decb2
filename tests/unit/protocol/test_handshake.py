"""The hello, and the table of what may follow it."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from pubsub.errors import RemoteProtocolError, UnsupportedVersionError
from pubsub.protocol import messages as m
from pubsub.protocol.handshake import ACCEPTED, check_hello, check_welcome, hello
from pubsub.version import __version__

WELCOME = m.Welcome(
    major=m.PROTOCOL_MAJOR,
    minor=0,
    software="other 2",
    role="peer",
    name="alice",
    incarnation="x.1",
    frame_bytes=1,
    message_bytes=1,
)


def test_our_own_hello_is_accepted():
    ours = hello("client", "me")
    assert check_hello(ours) is ours
    assert (ours.major, ours.minor) == (m.PROTOCOL_MAJOR, m.PROTOCOL_MINOR)
    assert __version__ in ours.software


def test_a_later_minor_version_is_accepted():
    later = msgspec.structs.replace(hello("client"), minor=m.PROTOCOL_MINOR + 7)
    assert check_hello(later) is later
    assert check_welcome(msgspec.structs.replace(WELCOME, minor=7)).minor == 7


@pytest.mark.parametrize("major", [0, m.PROTOCOL_MAJOR + 1])
def test_another_major_version_is_refused_naming_both(major: int):
    for check, frame in ((check_hello, hello("client")), (check_welcome, WELCOME)):
        with pytest.raises(UnsupportedVersionError) as caught:
            check(msgspec.structs.replace(frame, major=major, minor=3, software="other 2"))  # type: ignore[operator,type-var]
        assert f"other 2 speaks protocol {major}.3" in caught.value.message
        assert f"speaks {m.PROTOCOL_MAJOR}.{m.PROTOCOL_MINOR}" in caught.value.message
        assert caught.value.data == {
            "theirs": f"{major}.3",
            "ours": f"{m.PROTOCOL_MAJOR}.{m.PROTOCOL_MINOR}",
        }


def test_the_first_frame_must_be_hello_and_its_answer_welcome():
    with pytest.raises(RemoteProtocolError, match="must be hello, not Status"):
        check_hello(m.Status(1))
    with pytest.raises(RemoteProtocolError, match="must be welcome, not Done"):
        check_welcome(m.Done(1))
    with pytest.raises(RemoteProtocolError):
        check_hello(msgspec.structs.replace(hello("client"), magic="other"))
    with pytest.raises(RemoteProtocolError):
        check_welcome(msgspec.structs.replace(WELCOME, magic="other"))


def test_a_server_accepts_requests_and_credit_only():
    for accepted in ACCEPTED.values():
        assert accepted <= {*get_args(m.Request), m.Credit, m.Progress}
    assert frozenset().union(*ACCEPTED.values()) == {*get_args(m.Request), m.Credit, m.Progress}


def test_every_request_has_an_id_first_and_every_type_number_is_used_once():
    for kind in get_args(m.Request):
        assert kind.__struct_fields__[0] == "id"
    tags = [kind.__struct_config__.tag for kind in get_args(m.Frame)]
    assert tags == sorted(set(tags))
    assert max(tags) < 128  # `delivery_head` writes it in one byte
