"""Logging of the command line: to stderr, warnings unless told otherwise."""

from __future__ import annotations

import copy
import logging
import sys

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_PLAIN = "pubsub: %(levelname)s: %(message)s"
_DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """Without tracebacks: what went wrong stands at the end of the line."""

    def format(self, record: logging.LogRecord) -> str:
        bare = copy.copy(record)
        bare.exc_info = bare.exc_text = bare.stack_info = None
        text = " ".join(super().format(bare).split())
        error = record.exc_info[1] if record.exc_info else None
        return text if error is None or str(error) in text else f"{text}: {error!r}"


_shown = -1
"""The highest `verbose` asked for so far."""


def set_up_logging(verbose: int) -> None:
    """Log warnings; with `verbose` 1 what happens; with 2 everything. A later call only adds.

    Libraries stay at warnings: it is ours that the user asks to hear.
    """
    global _shown
    verbose = min(verbose, len(_LEVELS) - 1)
    if verbose <= _shown:
        return
    _shown = verbose
    own = logging.getLogger("pubsub")
    handler: logging.Handler = (
        logging.NullHandler() if sys.stderr is None else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(
        logging.Formatter(_DETAILED) if verbose > 1 else _OneLine(_DETAILED if verbose else _PLAIN)
    )
    own.setLevel(_LEVELS[verbose])
    for logger in (own, logging.getLogger()):
        logger.handlers = [handler]
    own.propagate = False
