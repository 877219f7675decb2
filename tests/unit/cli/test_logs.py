"""Logging of the command line: a line each, and a traceback for -vv alone."""

import logging

import pytest

from pubsub.cli.logs import set_up_logging

own = logging.getLogger("pubsub")


def log_all() -> None:
    own.debug("debug")
    own.info("info")
    own.warning("some\nwarning")
    try:
        raise ValueError("deep inside")
    except ValueError:
        own.exception("it failed")


def test_warnings_are_shown_in_one_line_each_and_without_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging(0)
    log_all()
    assert capsys.readouterr().err.splitlines() == [
        "pubsub: WARNING: some warning",
        "pubsub: ERROR: it failed: ValueError('deep inside')",
    ]


def test_v_shows_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(1)
    log_all()
    text = capsys.readouterr().err
    assert "INFO pubsub: info" in text
    assert "debug" not in text
    assert "Traceback" not in text


def test_vv_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(2)
    log_all()
    text = capsys.readouterr().err
    assert "DEBUG pubsub: debug" in text
    assert "Traceback" in text


def test_v_before_and_after_the_command_both_count(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(1)
    set_up_logging(0)
    own.info("still told")
    assert "still told" in capsys.readouterr().err
