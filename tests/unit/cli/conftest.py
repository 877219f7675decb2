"""Commands set up logging for their whole process; here that is the test run, which must get its own back."""

import logging
from collections.abc import Iterator

import pytest

from pubsub.cli import logs


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "_shown", -1)
    root, own = logging.getLogger(), logging.getLogger("pubsub")
    before = (own.handlers, own.level, own.propagate, root.handlers)
    yield
    own.handlers, level, own.propagate, root.handlers = before
    own.setLevel(level)
