"""When owners may be replaced, and which peers have to announce again."""

from typing import Any, cast

from pubsub.index.settling import Settling
from pubsub.registry import Generation

SECOND = 1_000_000


class World:
    """A registry that says which life it is, peers that nobody asks about, and a clock."""

    def __init__(self) -> None:
        self.now = 100 * SECOND
        self.life = Generation(id="first", created_at=self.now, schema=1)

    async def generation(self, now: int) -> Generation:
        return self.life

    def doubt_all(self) -> None:
        pass

    def begin(self, name: str) -> None:
        self.life = Generation(id=name, created_at=self.now, schema=1)


def settling_of(world: World) -> Settling:
    return Settling(cast(Any, world), cast(Any, world), 6.0, lambda: world.now, lambda: None)


async def pass_seconds(world: World, settling: Settling, seconds: int) -> None:
    """Look twice a second meanwhile, as the index does."""
    for _ in range(2 * seconds):
        world.now += SECOND // 2
        await settling.look()


async def test_nothing_is_settled_before_the_registry_has_answered() -> None:
    settling = settling_of(World())
    assert not settling.settled
    assert settling.life == ""


async def test_it_is_settled_a_ttl_after_the_life_of_the_registry_began_and_this_index_did() -> None:
    world = World()
    world.now += 3600 * SECOND  # the registry is old, this index has just started
    settling = settling_of(world)
    await settling.look()
    assert not settling.settled
    await pass_seconds(world, settling, 5)
    assert not settling.settled
    await pass_seconds(world, settling, 1)
    assert settling.settled


async def test_another_life_of_the_registry_or_an_interruption_begins_the_ttl_anew() -> None:
    world = World()
    settling = settling_of(world)
    await settling.look()
    await pass_seconds(world, settling, 6)
    assert settling.settled
    world.begin("second")
    await settling.look()
    assert (settling.settled, settling.life) == (False, "second")
    await pass_seconds(world, settling, 6)
    assert settling.settled
    world.now += 10 * SECOND  # neither it nor any heartbeat got through
    await settling.look()
    assert not settling.settled
    await pass_seconds(world, settling, 6)
    assert settling.settled


async def test_who_has_announced_in_an_earlier_life_has_to_do_it_again_once() -> None:
    world = World()
    settling = settling_of(world)
    await settling.look()
    assert not settling.must_announce("alice")  # another index may have heard it
    settling.note_announced("alice", settling.life)
    assert not settling.must_announce("alice")
    world.begin("second")
    await settling.look()
    assert settling.must_announce("alice")
    settling.note_announced("alice", "second")
    assert not settling.must_announce("alice")
