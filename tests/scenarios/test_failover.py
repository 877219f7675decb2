from tests.scenarios.story import Story


def test_any_two_of_three_copies_may_vanish_and_nothing_acknowledged_is_lost() -> None:
    story = Story(copies=3)
    assert story.publish("p1", 5) == ["stored"] * 5
    story.peer("p1").crash()
    story.until(lambda: story.owner != "p1" and story.owner_serves)
    second = story.owner
    assert story.publish(second, 5) == ["stored"] * 5
    story.peer(second).crash()
    story.until(lambda: story.owner not in ("p1", second) and story.owner_serves)
    assert len(story.log(story.owner)) == 10


def test_the_last_replica_standing_refuses_what_it_alone_would_have() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    story.peer("p2").crash()
    story.peer("p3").crash()
    story.until(lambda: story.in_sync == {"p1"})
    assert story.publish("p1") == ["not enough in sync"]
    assert story.publish("p1", acks="owner") == ["stored"]
    story.wait(1)
    assert story.committed == 5


def test_who_returns_while_the_last_replica_standing_is_away_does_not_lead() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    story.peer("p2").crash()
    story.peer("p3").crash()
    story.until(lambda: story.in_sync == {"p1"})
    story.publish("p1", acks="owner")
    story.peer("p1").crash()
    story.peer("p2").restart()
    story.peer("p3").restart()
    story.ttl_passes()
    assert story.owner == "p1"  # offline: nobody else may have it
    story.peer("p1").restart()
    story.until(lambda: story.in_sync == {"p1", "p2", "p3"})
    assert story.log("p1") == story.log("p2") == story.log("p3")
    assert story.committed == 6


def test_two_fast_failovers_and_the_old_owner_returns_with_a_tail_of_its_own() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    story.cut("p1", "p2")
    story.cut("p1", "p3")
    story.cut_from_indexes("p1")
    assert story.publish("p1", 3, acks="owner") == ["stored"] * 3  # nobody else ever gets these
    story.until(lambda: story.owner != "p1" and story.owner_serves)
    first = story.owner
    story.peer(first).crash()
    story.peer(first).restart()
    story.peer(first).stop()
    story.until(lambda: story.owner not in ("p1", first) and story.owner_serves)
    assert story.committed == 5
    story.peer(first).go_on()
    story.heal()
    story.until(lambda: story.in_sync == {"p1", "p2", "p3"})
    assert story.log("p1") == story.log("p2") == story.log("p3")
    assert story.peer("p1").copy.orphaned == 3


def test_an_owner_that_was_stopped_past_its_ttl_commits_nothing_when_it_wakes_up() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    story.peer("p1").stop()
    story.until(lambda: story.owner != "p1" and story.owner_serves)
    story.cut_from_indexes("p1")  # so that nobody tells it
    story.peer("p1").go_on()
    assert story.serves("p1")
    assert story.publish("p1", 2) == ["silence", "silence"]
    assert story.committed == 5
    story.heal()
    story.until(lambda: story.in_sync == {"p1", "p2", "p3"})
    assert not story.serves("p1")
    assert story.log("p1") == story.log(story.owner)


def test_an_owner_that_stops_in_good_order_hands_over_at_once() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    before = story.world.scheduler.now
    story.peer("p1").resign(lambda: None)
    story.until(lambda: story.owner != "p1" and story.owner_serves)
    assert story.world.scheduler.now - before < 1_000_000
    assert story.publish(story.owner) == ["stored"]


def test_without_a_registry_commits_go_on() -> None:
    story = Story(copies=3)
    story.world.registry.stop()
    story.ttl_passes()
    assert story.publish("p1", 5) == ["stored"] * 5
    assert story.committed == 5


def test_what_an_operator_accepts_to_lose_is_cut_off_and_kept_apart() -> None:
    story = Story(copies=2)
    story.publish("p1", 5)
    story.peer("p2").crash()
    story.until(lambda: story.in_sync == {"p1"})
    story.publish("p1", 2)
    story.peer("p1").crash()
    story.peer("p2").restart()
    story.ttl_passes()
    assert story.owner == "p1"
    assert not story.promote("p2", accept_loss=False)
    assert story.promote("p2", accept_loss=True)
    story.until(lambda: story.serves("p2"))
    assert story.record.lossy
    assert len(story.log("p2")) == 5
