from typing import Any

import pytest

from pubsub.core.replication import (
    JOIN_US,
    Config,
    Contacts,
    Membership,
    OwnerProgress,
    Proposal,
    default_min_in_sync,
)

SECOND = 1_000_000
LAG = 10 * SECOND


def a_membership(**fields: Any) -> Membership:
    given: dict[str, Any] = {
        "owner": "a",
        "epoch": 5,
        "version": 1,
        "in_sync": ("a", "b", "c"),
        "replicas": ("a", "b", "c"),
        "min_in_sync": 2,
    }
    return Membership(**{**given, **fields})


def a_progress(**fields: Any) -> OwnerProgress:
    given: dict[str, Any] = {
        "peer": "a",
        "epoch_start": 0,
        "log_end": 0,
        "committed": 0,
        "membership": a_membership(),
        "now": 0,
    }
    return OwnerProgress(**{**given, **fields})


def contacts(*heard: str, at: int = 0, started: int = 0) -> Contacts:
    found = Contacts(LAG, started)
    for now in range(started, at + 1, SECOND):
        found.tick(now)
    for peer in heard:
        found.heard(peer, at)
    return found


def a_followed_progress() -> tuple[OwnerProgress, Contacts]:
    """Both others follow, and are in contact."""
    progress = a_progress()
    progress.followed("b", 5, 0, 0)
    progress.followed("c", 5, 0, 0)
    return progress, contacts("b", "c")


def test_a_majority_must_have_a_message_from_three_copies_on() -> None:
    assert [default_min_in_sync(copies) for copies in range(1, 8)] == [1, 1, 2, 3, 3, 4, 4]


# What is committed


def test_committed_is_the_least_log_end_of_the_in_sync_copies() -> None:
    progress = a_progress()
    progress.appended(10, 0)
    assert progress.committed == 0
    progress.followed("b", 5, 8, 0)
    assert progress.committed == 0
    progress.followed("c", 5, 6, 0)
    assert progress.committed == 6
    progress.followed("c", 5, 10, 0)
    assert progress.committed == 8


def test_a_sole_copy_commits_what_it_has_on_disk() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a",), replicas=("a",), min_in_sync=1))
    progress.appended(3, 0)
    assert progress.committed == 3


def test_a_report_of_another_epoch_counts_for_nothing() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    progress.appended(10, 0)
    progress.followed("b", 4, 10, 0)
    progress.followed("b", 6, 10, 0)
    assert progress.committed == 0


def test_a_copy_on_its_way_in_counts_from_the_moment_it_is_proposed() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    progress.followed("c", 5, 0, 1)
    proposal = progress.tick(1, contacts("b", "c", at=1))
    assert proposal is not None
    assert proposal.in_sync == ("a", "b", "c")
    progress.appended(10, 2)
    progress.followed("b", 5, 10, 2)
    assert progress.committed == 0
    progress.followed("c", 5, 10, 2)
    assert progress.committed == 10


def without_c(progress: OwnerProgress) -> Proposal:
    """Let c fall out of contact, so that the owner proposes to go on without it."""
    now = 11 * SECOND
    progress.appended(10, now)
    progress.followed("b", 5, 10, now)
    proposal = progress.tick(now, contacts("b", at=now))
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")
    return proposal


def test_a_copy_on_its_way_out_counts_until_the_registry_has_confirmed() -> None:
    progress = a_progress()
    without_c(progress)
    assert progress.committed == 0
    progress.confirmed(a_membership(version=2, in_sync=("a", "b")))
    assert progress.committed == 10


def test_nothing_is_committed_while_fewer_copies_than_min_in_sync_have_it() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a",)))
    progress.appended(10, 0)
    assert progress.committed == 0
    assert not progress.enough
    progress.followed("b", 5, 10, 1)
    progress.tick(1, contacts("b", at=1))
    assert progress.committed == 10


def test_a_commit_never_goes_back() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    progress.appended(10, 0)
    progress.followed("b", 5, 10, 0)
    progress.followed("b", 5, 4, 1)
    assert progress.committed == 10


def test_without_a_registry_commits_go_on() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    contact = contacts("b")
    for n in range(1, 100):
        progress.appended(n, n * SECOND)
        progress.followed("b", 5, n, n * SECOND)
        contact.heard("b", n * SECOND)
        contact.tick(n * SECOND)
        progress.tick(n * SECOND, contact)
        assert progress.committed == n


# Proposals


def test_a_proposal_stays_until_the_record_has_a_newer_version() -> None:
    progress = a_progress()
    proposal = without_c(progress)
    progress.followed("c", 5, 10, 12 * SECOND)
    assert progress.tick(12 * SECOND, contacts("b", "c", at=12 * SECOND)) is proposal
    progress.confirmed(a_membership(version=1))
    assert progress.proposal is proposal
    progress.confirmed(
        a_membership(version=2)
    )  # somebody else changed something: the proposal can never be taken
    assert progress.proposal is None


def test_a_proposal_that_was_stored_counts_after_a_restart() -> None:
    progress = a_progress()
    proposal = without_c(progress)
    again = a_progress(log_end=10, proposal=proposal)
    again.followed("b", 5, 10, 0)
    assert again.committed == 0
    assert again.tick(0, contacts("b", "c")) == proposal


@pytest.mark.parametrize(("epoch", "version"), [(4, 2), (5, 1)])
def test_a_proposal_for_an_earlier_record_is_void_after_a_restart(epoch: int, version: int) -> None:
    proposal = Proposal(epoch=epoch, version=version, in_sync=("a", "b"))
    assert a_progress(membership=a_membership(version=2), proposal=proposal).proposal is None


def test_a_newer_epoch_ends_it() -> None:
    progress = a_progress()
    progress.confirmed(a_membership(epoch=6, version=2, owner="b"))
    assert progress.superseded
    assert progress.tick(99 * SECOND, contacts(at=99 * SECOND)) is None


def test_what_a_registry_from_before_says_is_ignored() -> None:
    progress = a_progress(membership=a_membership(version=7, in_sync=("a", "b")))
    progress.confirmed(a_membership(version=3))
    assert progress.membership.version == 7


# Who leaves and who comes in


def test_a_follower_may_be_silent_for_a_lag_and_no_longer() -> None:
    progress = a_progress()
    progress.followed("b", 5, 0, 0)
    progress.followed("c", 5, 0, 0)
    assert progress.tick(LAG, contacts("b", at=LAG)) is None
    contact = contacts(at=LAG + SECOND)
    contact.heard("b", LAG + SECOND)
    proposal = progress.tick(LAG + SECOND, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")


def test_a_follower_that_says_it_stops_leaves_at_once_though_it_is_in_contact_until_it_is_heard_of_anew() -> (
    None
):
    progress, contact = a_followed_progress()
    contact.leaves("c")
    proposal = progress.tick(0, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")
    assert progress.committed == 0
    progress.appended(1, 0)
    progress.followed("b", 5, 1, 0)
    assert progress.committed == 0, "it counts until the registry has confirmed that it is out"
    progress.confirmed(a_membership(version=2, in_sync=("a", "b")))
    assert progress.committed == 1
    progress.followed("c", 5, 1, 0)
    progress.followed("c", 5, 1, 0)
    assert progress.tick(0, contact) is None, "it does not come in while it leaves"
    contact.heard("c", 1)
    progress.followed("c", 5, 1, 1)
    proposal = progress.tick(1, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "b", "c")


def test_of_followers_that_stop_as_many_stay_as_must_be_in_sync() -> None:
    progress, contact = a_followed_progress()
    contact.leaves("b")
    contact.leaves("c")
    proposal = progress.tick(0, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "c")


def test_where_the_owner_stops_too_nobody_leaves() -> None:
    progress, contact = a_followed_progress()
    contact.leaves("c")
    contact.nobody_leaves()
    assert progress.tick(0, contact) is None


def test_a_follower_that_stays_behind_leaves_though_it_is_in_contact() -> None:
    progress = a_progress()
    contact = contacts("b", "c")
    for now in range(0, LAG + 2 * SECOND, SECOND):
        contact.tick(now)
        for peer in ("b", "c"):
            contact.heard(peer, now)
        progress.appended(now // SECOND + 1, now)
        progress.followed("b", 5, progress.log_end, now)
        progress.followed("c", 5, 0, now)
        proposal = progress.tick(now, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")


def test_a_follower_that_is_always_a_little_behind_stays() -> None:
    progress = a_progress()
    contact = contacts("b", "c")
    for now in range(0, 60 * SECOND, SECOND):
        contact.tick(now)
        progress.appended(now // SECOND + 1, now)
        for peer in ("b", "c"):
            contact.heard(peer, now)
            progress.followed(peer, 5, now // SECOND, now)
        assert progress.tick(now, contact) is None


def test_a_member_that_never_turned_up_leaves_after_a_lag() -> None:
    progress = a_progress()
    contact = contacts("b", "c", at=11 * SECOND)
    progress.followed("b", 5, 0, 11 * SECOND)
    proposal = progress.tick(11 * SECOND, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")


def with_b_that_lost_something(**report: Any) -> OwnerProgress:
    progress = a_progress()
    progress.appended(10, 0)
    progress.followed("c", 5, 10, 0)
    progress.followed("b", 5, 4, 0)
    progress.followed("b", 5, now=1, **report)
    return progress


@pytest.mark.parametrize("report", [{"log_end": 3}, {"log_end": 4, "sound": False}])
def test_a_copy_that_lost_what_it_had_on_disk_leaves_at_once(report: dict[str, Any]) -> None:
    progress = with_b_that_lost_something(**report)
    proposal = progress.tick(1, contacts("b", "c", at=1))
    assert proposal is not None
    assert proposal.in_sync == ("a", "c")


def test_a_copy_that_lost_something_has_nothing_until_it_has_left() -> None:
    progress = with_b_that_lost_something(log_end=10, sound=False)
    assert progress.committed == 4
    progress.tick(1, contacts("b", "c", at=1))
    assert progress.committed == 4
    progress.confirmed(a_membership(version=2, in_sync=("a", "c")))
    assert progress.committed == 10
    assert not progress.admits("b")


def test_a_copy_that_lost_something_is_sound_once_it_has_left_and_come_in_again() -> None:
    progress = with_b_that_lost_something(log_end=10, sound=False)
    progress.confirmed(a_membership(version=2, in_sync=("a", "c")))
    progress.followed("b", 5, 10, 2, sound=False)
    proposal = progress.tick(2, contacts("b", "c", at=2))
    assert proposal is not None
    assert proposal.in_sync == ("a", "b", "c")
    assert not progress.admits("b")
    progress.confirmed(a_membership(version=3))
    assert progress.admits("b")
    progress.followed("b", 5, 10, 3)
    assert not progress.admits("b")
    assert progress.tick(3, contacts("b", "c", at=3)) is None


def test_an_owner_that_the_registry_does_not_listen_to_never_makes_a_copy_sound() -> None:
    progress = with_b_that_lost_something(log_end=10, sound=False)
    for now in range(2, 9):
        progress.tick(now, contacts("b", "c", at=now))
        progress.followed("b", 5, 10, now, sound=False)
    assert progress.committed == 4
    assert not progress.admits("b")


def test_a_new_copy_that_is_not_sound_yet_comes_in_as_any_other() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    progress.followed("c", 5, 0, 1, sound=False)
    proposal = progress.tick(1, contacts("b", "c", at=1))
    assert proposal is not None
    assert proposal.in_sync == ("a", "b", "c")
    progress.confirmed(a_membership(version=2))
    assert progress.admits("c")


def test_a_copy_does_not_come_in_while_it_lacks_what_is_committed() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    progress.appended(10, 0)
    progress.followed("b", 5, 10, 0)
    progress.followed("c", 5, 9, 1)
    assert progress.tick(1, contacts("b", "c", at=1)) is None
    progress.followed("c", 5, 10, 2)
    proposal = progress.tick(2, contacts("b", "c", at=2))
    assert proposal is not None
    assert proposal.in_sync == ("a", "b", "c")


def test_a_copy_that_was_silent_comes_in_again_though_nothing_is_published() -> None:
    """It reports nothing new, then: that it is heard of is enough."""
    progress = a_progress(membership=a_membership(in_sync=("a",)))
    progress.followed("b", 5, 0, 0)
    late = 5 * LAG
    assert progress.tick(late, contacts("c", at=late)) is None
    proposal = progress.tick(late, contacts("b", at=late))
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")


def test_a_copy_comes_in_under_a_steady_stream_of_publishes() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    contact = contacts("b", "c")
    for n in range(1, 5):
        progress.appended(10 * n, n)
        progress.followed("b", 5, 10 * n - 5, n)
        progress.followed("c", 5, 10 * n - 5, n)
    proposal = progress.tick(5, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "b", "c")


def a_sole_owner_whose_copy_is_always_a_message_behind() -> OwnerProgress:
    progress = a_progress(membership=a_membership(in_sync=("a",), min_in_sync=1))
    for n in range(1, 5):
        progress.appended(n, n)
        progress.followed("b", 5, n - 1, n)
    assert progress.committed == progress.log_end == 4
    return progress


def test_a_copy_that_keeps_up_is_waited_for_where_the_owner_alone_commits() -> None:
    progress, contact = a_sole_owner_whose_copy_is_always_a_message_behind(), contacts("b")
    assert progress.tick(5, contact) is None
    assert not progress.comes_in("b")
    progress.appended(6, 6)
    assert progress.committed == 4
    progress.followed("b", 5, 5, 7)
    assert progress.committed == 5
    assert progress.comes_in("b")
    proposal = progress.tick(7, contact)
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")


def test_a_copy_that_then_says_nothing_is_not_waited_for_longer_than_a_moment() -> None:
    progress, contact = a_sole_owner_whose_copy_is_always_a_message_behind(), contacts("b")
    assert progress.tick(5, contact) is None
    progress.appended(6, 6)
    assert progress.tick(5 + JOIN_US, contact) is None
    assert progress.committed == 4
    assert progress.tick(6 + JOIN_US, contact) is None
    assert progress.committed == 6
    assert progress.tick(7 + JOIN_US, contact) is None  # nor again at once
    progress.appended(7, 8 + JOIN_US)
    assert progress.committed == 7


def test_who_is_no_replica_any_more_leaves_the_in_sync_set() -> None:
    progress = a_progress(membership=a_membership(replicas=("a", "b")))
    proposal = progress.tick(0, contacts("b", "c"))
    assert proposal is not None
    assert proposal.in_sync == ("a", "b")


def test_time_in_which_the_owner_itself_was_stopped_is_not_held_against_others() -> None:
    progress = a_progress()
    contact = contacts("b", "c")
    for peer in ("b", "c"):
        progress.followed(peer, 5, 0, 0)
    contact.tick(600 * SECOND)
    progress.appended(1, 600 * SECOND)
    assert progress.tick(600 * SECOND, contact) is None


# What publishers are told


def test_enough_are_in_sync_as_long_as_min_in_sync_stay() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    assert progress.enough
    now = 11 * SECOND
    proposal = progress.tick(now, contacts(at=now))
    assert proposal is not None
    assert not progress.enough


def test_who_has_a_message_is_known() -> None:
    progress = a_progress()
    progress.appended(10, 0)
    progress.followed("b", 5, 8, 0)
    assert progress.holders(8) == ["a", "b"]
    assert progress.holders(9) == ["a"]


# Handing over


def test_a_successor_has_the_whole_log_and_is_in_sync() -> None:
    progress = a_progress(membership=a_membership(in_sync=("a", "b")))
    progress.appended(10, 0)
    progress.resign()
    assert not progress.enough
    progress.followed("c", 5, 10, 0)
    assert progress.successor() is None
    progress.followed("b", 5, 9, 0)
    assert progress.successor() is None
    progress.followed("b", 5, 10, 0)
    assert progress.successor() == "b"
    assert progress.successor({"c"}) is None


# Changes of the set of replicas


def test_a_smaller_set_counts_only_once_enough_of_the_former_have_stored_it() -> None:
    progress = a_progress()
    progress.confirmed(a_membership(version=2, in_sync=("a",), replicas=("a", "b"), min_in_sync=1))
    progress.appended(10, 0)
    assert progress.committed == 0
    progress.followed("b", 5, 0, 0, config=progress.config.order)
    assert progress.committed == 10


def test_a_copy_that_is_taken_away_need_not_be_told() -> None:
    pair = a_membership(in_sync=("a", "b"), replicas=("a", "b"))
    progress = a_progress(membership=pair)
    progress.confirmed(a_membership(version=2, in_sync=("a", "c"), replicas=("a", "c")))
    progress.appended(10, 0)
    progress.followed("c", 5, 10, 0)
    assert progress.committed == 10


def test_the_former_set_is_remembered_across_a_restart() -> None:
    former = Config(epoch=5, version=1, replicas=("a", "b", "c"), min_in_sync=2)
    now = a_membership(version=2, in_sync=("a",), replicas=("a", "b"), min_in_sync=1)
    progress = a_progress(membership=now, known=[former], log_end=10)
    assert progress.committed == 0
    assert [config.version for config in progress.configs] == [1, 2]


def test_a_topic_is_quiet_when_all_replicas_have_everything() -> None:
    progress = a_progress()
    progress.appended(1, 0)
    assert not progress.quiet
    progress.followed("b", 5, 1, 0)
    progress.followed("c", 5, 1, 0)
    assert progress.quiet
    progress.followed("b", 5, 1, 1, sound=False)
    assert not progress.quiet
