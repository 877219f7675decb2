"""What people are told of a topic whose copies are not as they should be."""

import pytest

from pubsub.core.liveness import AWAY, Standing
from pubsub.index.describing import problem_of
from pubsub.registry import TopicRecord

ALIVE = Standing(alive=True, address="10.0.0.1:7000")


def a_record(**fields: object) -> TopicRecord:
    made = {
        "name": "t",
        "id": 1,
        "owner": "a",
        "epoch": 1,
        "created_at": 1,
        "replicas": ["a", "b", "c"],
        "in_sync": ["a", "b", "c"],
        "policy": {"replicas": 3},
    }
    return TopicRecord(**made | fields)  # type: ignore[arg-type]


ALONE = {"replicas": ["a"], "in_sync": ["a"], "policy": {}}


@pytest.mark.parametrize(
    ("fields", "alive", "problem"),
    [
        ({}, "abc", None),
        (ALONE, "a", None),
        (ALONE, "", "offline: its owner a is away"),
        ({}, "bc", "its owner a is away; b or c takes over"),
        ({"in_sync": ["a", "b"]}, "bc", "its owner a is away; b takes over"),
        (
            {"in_sync": ["a", "b"]},
            "c",
            "offline: its owner a is away, and so is every other copy that is in sync",
        ),
        ({"in_sync": ["a"]}, "abc", "1 of its copies are in sync, 2 must be"),
        (
            {"replicas": ["a", "b"], "in_sync": ["a", "b"]},
            "abc",
            "short of replicas: 2 of 3, until another peer",
        ),
        ({"leaving": ["c"]}, "abc", "short of replicas: 2 of 3, until another peer"),
        ({}, "ab", "short of replicas: 2 of 3, c is away"),
        ({"replicas": ["a", "b"], "policy": {"replicas": 1}, "leaving": ["b"]}, "abc", None),
    ],
)
def test_a_problem_is_told_with_its_reason(
    fields: dict[str, object], alive: str, problem: str | None
) -> None:
    found = problem_of(a_record(**fields), lambda peer: ALIVE if peer in alive else AWAY)
    assert found == problem or (problem is not None and found is not None and found.startswith(problem))
