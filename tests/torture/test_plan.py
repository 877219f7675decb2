"""Plans come from their seeds alone, and leave no kind of fault out."""

from __future__ import annotations

from itertools import islice

from tests.torture.plan import (
    DAMAGE_FAULTS,
    PEER_FAULTS,
    REPLICA_FAULTS,
    SITE_FAULTS,
    PlannedFault,
    draw_rounds,
)


def rounds(seed: int, *, damage: bool = False) -> list[list[PlannedFault]]:
    return list(islice(draw_rounds(seed, peers=5, topics=4, ttl=2.0, damage=damage), 100))


def test_a_seed_gives_the_same_plan_again_and_another_seed_another() -> None:
    assert rounds(1) == rounds(1)
    assert rounds(1) != rounds(2)


def test_every_kind_of_fault_comes_alone_and_with_others() -> None:
    all_kinds = {*PEER_FAULTS, *SITE_FAULTS, *REPLICA_FAULTS}
    assert {fault.kind for one in rounds(3) for fault in one} == all_kinds
    assert {len(one) for one in rounds(3)} == {1, 2, 3}


def test_files_are_damaged_only_when_asked_for() -> None:
    assert {*DAMAGE_FAULTS} <= {fault.kind for one in rounds(3, damage=True) for fault in one}


def test_a_stop_outlasts_the_ttl() -> None:
    assert all(fault.seconds > 2.0 for one in rounds(5) for fault in one if fault.kind == "pause")
