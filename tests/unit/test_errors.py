"""The error tree: codes, what may be retried, and the way over the wire."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import socket

import pytest

import pubsub.errors
from pubsub.errors import (
    ERRORS_BY_CODE,
    MessageTooLargeError,
    NotOwnerError,
    PubsubError,
    TimeoutExpiredError,
    error_from_wire,
    reason_of,
)

CLASSES = [
    cls for _, cls in inspect.getmembers(pubsub.errors, inspect.isclass) if issubclass(cls, PubsubError)
]


def test_every_class_has_a_code_of_its_own():
    assert set(ERRORS_BY_CODE.values()) == set(CLASSES)
    for code, cls in ERRORS_BY_CODE.items():
        assert cls.code == code
        assert re.fullmatch(r"[a-z_]+", code)
        assert "code" in vars(cls)


def test_the_drawing_of_the_tree_is_the_tree():
    """Classes in the drawing by depth, with a star where retriable, against the classes themselves."""
    drawn = {
        name: bool(star)
        for name, star in re.findall(
            r"\b([A-Z][A-Za-z]*Error)(\*?)", (pubsub.errors.__doc__ or "").split("\n\n", 2)[2]
        )
    }
    assert drawn == {cls.__name__: cls.retriable for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_comes_over_the_wire_as_what_it_was(cls: type[PubsubError]):
    sent = cls("what happened", owner="bob", address=None)
    received = error_from_wire(sent.code, sent.message, sent.data)
    assert type(received) is cls
    assert str(received) == received.message == "what happened"
    assert received.data == {"owner": "bob", "address": None}
    assert received.retriable is cls.retriable


def test_the_code_of_a_newer_version_becomes_a_plain_error_that_is_not_retried():
    error = error_from_wire("from_the_future", "no", None)
    assert type(error) is PubsubError
    assert not error.retriable
    assert error.data == {}


def test_a_timeout_is_a_timeout_to_everybody():
    with pytest.raises(asyncio.TimeoutError):
        raise TimeoutExpiredError("late")


def test_data_holds_the_facts_and_nothing_is_acknowledged_unless_said():
    error = MessageTooLargeError("too large", limit_bytes=5, index=2)
    assert error.data == {"limit_bytes": 5, "index": 2}
    assert list(error.acknowledged) == []
    assert NotOwnerError.retriable


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "x"), "Permission denied"),
        (OSError(99, "error while attempting to bind on address ('1.2.3.4', 5): ..."), os.strerror(99)),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("something of a library"), "something of a library"),
    ],
)
def test_what_the_system_refuses_is_told_in_its_words(error: OSError, words: str) -> None:
    assert reason_of(error) == words
