"""Connections are as many as the limit, and the system, allow."""

from __future__ import annotations

import resource

import pytest

from pubsub.net import descriptors


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """What the system allows, soft and hard."""
    now = {"files": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda what: now["files"])
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: now.update(files=limits))
    return now


@pytest.mark.parametrize(
    ("soft", "room"),
    [(1024, 904), (20_000, 10_000), (10_050, 9_930), (64, 1), (resource.RLIM_INFINITY, 10_000)],
)
def test_connections_leave_files_for_the_rest_of_the_process(
    allowed: dict[str, tuple[int, int]], soft: int, room: int
):
    allowed["files"] = (soft, soft)
    assert descriptors.room_for_connections(10_000) == room


def test_a_process_takes_what_it_may(allowed: dict[str, tuple[int, int]]):
    descriptors.raise_descriptor_limit()
    assert allowed["files"] == (4096, 4096)


def test_a_system_that_allows_less_than_it_says_is_put_up_with(monkeypatch: pytest.MonkeyPatch):
    def refuse(what: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    descriptors.raise_descriptor_limit()
