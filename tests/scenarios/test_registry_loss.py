from tests.scenarios.story import Story
from tests.simulation.frames import TTL


def life(story: Story) -> str:
    return story.world.registry.on_view("", story.world.indexes[0].clock()).life


def is_decided(story: Story) -> bool:
    record = story.world.registry.record
    return record is not None and record.life == life(story)


def test_after_a_wipe_commits_go_on_and_the_owner_gets_a_newer_epoch() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    epoch = story.record.epoch
    story.world.registry.wipe()
    assert story.publish("p1", 5) == ["stored"] * 5
    story.until(lambda: is_decided(story) and story.owner_serves)
    assert story.owner == "p1"
    assert story.record.epoch > epoch
    story.until(lambda: story.in_sync == {"p1", "p2", "p3"})
    assert story.publish("p1") == ["stored"]


def test_no_ownership_is_decided_before_a_full_ttl_has_passed() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    story.peer("p1").crash()
    story.world.registry.wipe()
    began = story.world.scheduler.now
    story.until(lambda: is_decided(story))
    assert story.world.scheduler.now - began >= TTL
    assert story.owner in ("p2", "p3")
    story.until(lambda: story.owner_serves)
    assert len(story.log(story.owner)) == 5


def test_an_owner_that_no_index_reaches_commits_nothing_once_the_others_have_promised() -> None:
    story = Story(copies=3)
    story.publish("p1", 5)
    story.cut_from_indexes("p1")
    story.world.registry.wipe()
    assert story.publish("p1", 5) == ["stored"] * 5
    story.until(lambda: is_decided(story) and story.owner_serves)
    assert story.owner in ("p2", "p3")
    committed = story.committed
    assert story.publish("p1") in (["silence"], ["not owner"])
    assert story.committed == committed == 10
    assert len(story.log(story.owner)) == 10


def test_a_record_from_an_old_snapshot_does_not_make_its_owner_the_owner() -> None:
    story = Story(copies=3)
    story.world.registry.save()
    story.publish("p1", 5)
    story.peer("p1").crash()
    story.until(lambda: story.owner != "p1" and story.owner_serves)
    story.publish(story.owner, 5)
    story.world.registry.set_back()
    assert story.record.owner == "p1"
    story.peer("p1").restart()
    story.until(lambda: is_decided(story) and story.owner_serves)
    assert story.owner != "p1"
    assert len(story.log(story.owner)) == 10


def test_of_two_copies_both_are_needed_to_decide_after_a_wipe() -> None:
    story = Story(copies=2)
    story.peer("p2").crash()
    story.until(lambda: story.in_sync == {"p1"})
    story.publish("p1", 5)  # on p1 alone: the registry knows that, p2 does not
    story.peer("p1").crash()
    story.world.registry.wipe()
    story.peer("p2").restart()
    story.ttl_passes()
    story.ttl_passes()
    assert not story.serves("p2")
    story.peer("p1").restart()
    story.until(lambda: is_decided(story) and story.in_sync == {"p1", "p2"})
    assert story.log("p1") == story.log("p2")
    assert len(story.log("p1")) == 5
