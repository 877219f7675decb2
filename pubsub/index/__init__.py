"""The indexing server: the registry behind a socket. Stateless; run as many as you like."""

from __future__ import annotations

from pubsub.index.server import IndexServer

__all__ = ["IndexServer"]
