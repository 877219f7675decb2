import pytest

from pubsub.core.liveness import AWAY, Standing, Start, changed_peers, is_alive, settled_at, start_count

CREATED = 1_000_000
TTL = 6_000_000
NEW = Start(count=1, started_at=CREATED + 1)


def a_standing(address: str = "10.0.0.1:7000", incarnation: str = "aa.1") -> Standing:
    return Standing(alive=True, address=address, incarnation=incarnation)


def test_a_peer_lives_until_its_deadline_and_not_a_microsecond_longer() -> None:
    assert is_alive(100, now=99)
    assert not is_alive(100, now=100)
    assert not is_alive(100, now=101)


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {}, []),
        ({"a": a_standing()}, {"a": a_standing()}, []),
        ({}, {"a": a_standing()}, ["a"]),
        ({"a": a_standing()}, {}, ["a"]),
        ({"a": a_standing()}, {"a": AWAY}, ["a"]),
        ({"a": AWAY}, {"a": a_standing()}, ["a"]),
        ({"a": AWAY}, {}, []),
        ({}, {"a": AWAY}, []),
        ({"a": a_standing("10.0.0.1:1")}, {"a": a_standing("10.0.0.1:2")}, ["a"]),
        ({"a": a_standing(incarnation="aa.1")}, {"a": a_standing(incarnation="aa.2")}, ["a"]),
        ({"b": a_standing(), "a": AWAY}, {"c": a_standing(), "a": a_standing()}, ["a", "b", "c"]),
    ],
)
def test_those_whose_standing_differs_have_changed(
    before: dict[str, Standing], after: dict[str, Standing], changed: list[str]
) -> None:
    assert changed_peers(before, after) == changed


@pytest.mark.parametrize(
    ("incarnation", "count"),
    [("ab.1", 1), ("ab.27", 27), ("a.b.3", 3), ("ab", 0), ("ab.x", 0), ("", 0), ("ab.²", 0)],
)
def test_the_start_count_is_read_from_the_incarnation(incarnation: str, count: int) -> None:
    assert start_count(incarnation) == count


def test_a_fresh_installation_is_settled_at_once() -> None:
    assert settled_at(CREATED, TTL, [NEW, NEW], lived_before=False) == CREATED
    same_moment = Start(count=1, started_at=CREATED)
    assert settled_at(CREATED, TTL, [same_moment], lived_before=False) == CREATED


@pytest.mark.parametrize(
    ("starts", "lived_before"),
    [
        pytest.param([], False, id="nobody is registered yet"),
        pytest.param(
            [NEW, Start(count=2, started_at=CREATED + 1)], False, id="a data directory was used before"
        ),
        pytest.param([NEW, Start(count=1, started_at=CREATED - 1)], False, id="a peer was there before"),
        pytest.param([NEW], True, id="the index remembers an earlier life"),
        pytest.param([], True, id="all of it"),
    ],
)
def test_otherwise_a_registry_that_came_up_empty_is_settled_after_a_full_ttl(
    starts: list[Start], lived_before: bool
) -> None:
    assert settled_at(CREATED, TTL, starts, lived_before=lived_before) == CREATED + TTL
