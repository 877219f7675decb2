"""A fixed share of seeds, the same for everybody, and some that nobody has seen."""

import random
from functools import cache

import pytest

from tests.simulation.runs import Outcome, run_seeds, tell

SHARES = 6
SEEDS_PER_SHARE = 50
FRESH_SEEDS = 40


def report(outcomes: list[Outcome]) -> str:
    """What somebody needs who is to find out what happened."""
    failed = [outcome for outcome in outcomes if outcome.failure]
    lines = [f"seed {outcome.seed}: {outcome.failure}" for outcome in failed]
    if failed:
        lines += [f"the end of the story of seed {failed[0].seed}:", *tell(failed[0].seed)[-80:]]
    return "\n".join(lines)


@pytest.mark.parametrize("share", range(SHARES))
def test_every_rule_holds_under_the_faults_of_each_seed(share: int) -> None:
    outcomes = run_seeds(range(share * SEEDS_PER_SHARE, (share + 1) * SEEDS_PER_SHARE))
    assert not [outcome for outcome in outcomes if outcome.failure], report(outcomes)
    assert sum(outcome.committed for outcome in outcomes) > SEEDS_PER_SHARE


def test_every_rule_holds_under_the_faults_of_fresh_seeds() -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"make simulate SEEDS={FRESH_SEEDS} FIRST={first}")
    outcomes = run_seeds(range(first, first + FRESH_SEEDS))
    assert not [outcome for outcome in outcomes if outcome.failure], report(outcomes)


def test_a_seed_gives_the_same_run_each_time_and_a_story_that_can_be_read() -> None:
    story = tell(7)
    assert story == tell(7)
    assert len(story) > 20
    assert any("owns the topic in epoch" in line for line in story)


@pytest.mark.parametrize(
    "what",
    [
        "cuts off",
        "is dead, and proposes",
        "rebuilds the record",
        "renews",
        "resigns",
        "moves the ownership",
        "places: add",
        "places: remove",
        "LOSES ITS DISK",
        "RESTARTED FROM A SNAPSHOT",
        "GOES ON",
        "nothing goes through",
    ],
)
def test_the_seeds_lead_to(what: str) -> None:
    assert any(what in line for seed in range(40, 100) for line in story_of(seed))


@cache
def story_of(seed: int) -> list[str]:
    return tell(seed)
