"""Who commits: the event loop a little, by itself, as long as the disk is quick; the writing thread all else."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pubsub.storage import writer
from pubsub.storage.store import Store
from pubsub.storage.writer import SMALL_BYTES
from tests.integration.storage.stores import append, copy_of
from tests.waiting import wait_until


def committers(store: Store, monkeypatch: pytest.MonkeyPatch, *, takes_seconds: float = 0.0) -> list[str]:
    """The names of the threads that commit from now on, one for each commit, which may be made to take longer."""
    found: list[str] = []
    commit = store._writer._commit

    def watched(*work: Any) -> Any:
        found.append(threading.current_thread().name)
        time.sleep(takes_seconds)
        return commit(*work)

    monkeypatch.setattr(store._writer, "_commit", watched)
    return found


async def quick_store(store: Store) -> Any:
    """A topic of a store whose event loop may commit: the thread has been through a commit, and rests."""
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x" * (2 * SMALL_BYTES)])
    await wait_until(lambda: store._writer._quick and not store._writer._lock.locked())
    return topic


async def test_a_little_is_committed_by_the_event_loop_and_more_by_the_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    topic = await quick_store(store)
    names = committers(store, monkeypatch)
    await append(store, topic, [b"x"])
    await append(store, topic, [b"x" * (2 * SMALL_BYTES)])
    assert names == [threading.current_thread().name, "pubsub-writer"]


async def test_after_a_slow_commit_the_event_loop_rests_in_proportion_to_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "SLOW_COMMIT_SECONDS", 0.2)
    topic = await quick_store(store)
    with monkeypatch.context() as slow:
        committers(store, slow, takes_seconds=0.3)
        before = time.monotonic()
        await append(store, topic, [b"x"])
    rest_seconds = store._writer._slow_until - time.monotonic()
    assert writer.SLOW_REST * 0.3 - 1 < rest_seconds < writer.SLOW_REST * (time.monotonic() - before)
    names = committers(store, monkeypatch)
    await append(store, topic, [b"x"])
    assert names == ["pubsub-writer"]
    store._writer._slow_until = 0.0
    await wait_until(lambda: store._writer._quick and not store._writer._lock.locked())
    await append(store, topic, [b"x"])
    assert names == ["pubsub-writer", threading.current_thread().name]
