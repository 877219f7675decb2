"""The simulation is worth something: it finds each of these bugs, and none without them (test_runs)."""

import pytest

from tests.simulation.bugs import BUGS, Bug, seed_that_finds
from tests.simulation.rules import Rules

SEEDS = 400
"""Each is found within so many; most within twenty."""


@pytest.mark.parametrize("name", BUGS)
def test_the_simulation_finds(name: str) -> None:
    assert seed_that_finds(BUGS[name], range(SEEDS)) is not None, f"{SEEDS} seeds run well with the bug"


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.faults])
def test_the_faults_by_which_a_rare_bug_is_found_do_no_harm_without_it(name: str) -> None:
    bug = BUGS[name]
    assert seed_that_finds(Bug(Rules, bug.copies, bug.faults), range(10)) is None
