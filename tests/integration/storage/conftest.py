"""Stores in temporary directories, all closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from pubsub.config import StorageSettings
from pubsub.storage.store import Store

OpenStore = Callable[..., Awaitable[Store]]


@pytest_asyncio.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens a store of the peer alice, in `tmp_path / "data"` unless told; settings by keyword."""
    opened: list[Store] = []

    async def open_it(directory: Path | None = None, name: str = "alice", **settings: Any) -> Store:
        store = await Store.open(directory or tmp_path / "data", name, StorageSettings(**settings))
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        await store.close()


@pytest_asyncio.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()
