"""What goes wrong: drawn by lot for a while, several things at once; then everything is mended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pubsub.core.ownership import min_in_sync
from tests.simulation.frames import LAG, TTL
from tests.simulation.scheduler import MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.world import World


KINDS = (
    "crash",
    "stop",
    "cut_off",
    "one_way",
    "bad_network",
    "registry_away",
    "wipe",
    "set_back",
    "save",
    "resign",
    "move",
    "stop_index",
    "crash_owner",
    "stop_owner",
    "registry_and_owner",
    "registry_and_owner_apart",
    "owner_while_it_waits",
    "last_one_standing",
    "lose_disk",
)


class Faults:
    """Does damage to a world."""

    def __init__(self, world: World, chosen: Sequence[str] = ()) -> None:
        self.world = world
        self.random = world.scheduler.random
        # Each run has a taste of its own: few kinds again and again find what all kinds at once do not.
        names = list(chosen) or self.random.sample(KINDS, self.random.randint(2, 7))
        self.kinds: list[Callable[[], None]] = [getattr(self, name) for name in names]
        self.pause = self.random.choice([100, 300, 800]) * MS

    def until(self, end: int) -> None:
        """Something every now and then, up to this time."""
        scheduler = self.world.scheduler

        def something() -> None:
            if scheduler.now < end:
                self.random.choice(self.kinds)()
                scheduler.at(self.random.randint(self.pause // 2, 2 * self.pause), something)

        scheduler.at(self.random.randint(0, SECOND), something)

    def _for(self) -> int:
        return self.random.choice([50 * MS, 300 * MS, TTL, 2 * TTL, 4 * TTL])

    def _later(self, action: Callable[[], None]) -> None:
        self.world.scheduler.at(self._for(), action)

    def crash(self, name: str | None = None) -> None:
        peer = self.world.peers[name or self.random.choice(sorted(self.world.peers))]
        if peer.up:
            peer.crash()
            self._later(peer.restart)

    def stop(self, name: str | None = None) -> None:
        peer = self.world.peers[name or self.random.choice(sorted(self.world.peers))]
        if peer.up and not peer.stopped:
            peer.say("STOPPED")
            peer.stop()
            self._later(self._going_on(peer.name))

    def _going_on(self, name: str) -> Callable[[], None]:
        def go_on() -> None:
            peer = self.world.peers[name]
            if peer.stopped:
                peer.say("GOES ON")
                peer.go_on()

        return go_on

    def crash_owner(self) -> None:
        self.crash(self.world.owner)

    def stop_owner(self) -> None:
        self.stop(self.world.owner)

    def stop_index(self) -> None:
        index = self.random.choice(self.world.indexes)
        if not index.stopped:
            index.say("STOPPED")
            index.stop()
            self._later(index.go_on)

    def resign(self) -> None:
        peer = self.world.peers[self.world.owner]
        if peer.up and not peer.stopped:
            peer.resign(lambda: self._later(peer.restart))

    def move(self) -> None:
        names = sorted(self.world.peers)
        source, target = self.random.choice(names), self.random.choice([*names, None])
        self.world.indexes[0].move(source, target)

    # The network

    def _cut(self, links: set[tuple[str, str]]) -> None:
        network = self.world.network
        network.cut |= links
        self._later(lambda: network.cut.difference_update(links))

    def _names(self) -> list[str]:
        return [*sorted(self.world.peers), *(index.name for index in self.world.indexes), "registry"]

    def cut_off(self) -> None:
        """A part of the machines reaches another part no more, nor the other way."""
        names = self._names()
        part = set(self.random.sample(names, self.random.randint(1, len(names) // 2)))
        self.world.scheduler.say("network", "{} are CUT OFF", sorted(part))
        others = set(names) - part
        self._cut({(a, b) for a in part for b in others} | {(b, a) for a in part for b in others})

    def one_way(self) -> None:
        names = self._names()
        links = {(a, b) for a in names for b in names if a != b and self.random.random() < 0.25}
        self.world.scheduler.say("network", "nothing goes through {}", sorted(links))
        self._cut(links)

    def bad_network(self) -> None:
        network = self.world.network
        network.loss = self.random.choice([0.0, 0.05, 0.3])
        network.doubling = self.random.choice([0.0, 0.1])
        network.slowest = self.random.choice([5, 60, 700]) * MS
        self.world.scheduler.say(
            "network", "loses {:.0%}, takes up to {} ms", network.loss, network.slowest // MS
        )

        def better() -> None:
            network.loss, network.doubling, network.slowest = 0.0, 0.0, 15 * MS

        self._later(better)

    # The registry

    def registry_away(self) -> None:
        registry = self.world.registry
        if not registry.stopped:
            registry.say("AWAY")
            registry.stop()
            self._later(registry.go_on)

    def wipe(self) -> None:
        self.world.registry.wipe()

    def save(self) -> None:
        self.world.registry.save()

    def set_back(self) -> None:
        self.world.registry.set_back()
        self.world.scheduler.at(self._for(), self.world.registry.save)

    def registry_and_owner(self) -> None:
        """The registry forgets, and at the same time the owner is gone, or gone for a while."""
        self.random.choice([self.wipe, self.set_back])()
        self.random.choice([self.crash_owner, self.stop_owner])()

    def registry_and_owner_apart(self) -> None:
        """The registry forgets, and the owner reaches its followers, but no index."""
        self.random.choice([self.wipe, self.set_back])()
        owner, indexes = self.world.owner, [index.name for index in self.world.indexes]
        self.world.scheduler.say("network", "{} reaches no index", owner)
        self._cut({(owner, index) for index in indexes} | {(index, owner) for index in indexes})

    def owner_while_it_waits(self) -> None:
        """The owner is gone for a moment, while what it asked of an index is under way."""
        owner = self.world.peers[self.world.owner]
        for index in self.world.indexes:
            if not index.stopped:
                index.stop()
                self.world.scheduler.at(self.random.randint(50, 900) * MS, index.go_on)
        owner.say("CRASHES SOON")
        self.world.scheduler.at(self.random.randint(0, 300) * MS, owner.crash)
        self.world.scheduler.at(self.random.randint(300, 500) * MS, owner.restart)

    def last_one_standing(self) -> None:
        """All replicas die but the owner, which dies when it has noticed; the others return first."""
        record = self.world.registry.record
        if record is None:
            return
        owner, others = (
            record.owner,
            [self.world.peers[name] for name in record.replicas if name != record.owner],
        )
        for peer in others:
            peer.crash()
        scheduler, random = self.world.scheduler, self.random
        alone = random.randint(LAG, 2 * LAG)
        if random.random() < 0.5:
            scheduler.at(alone, random.choice([self.wipe, self.set_back]))
        scheduler.at(alone, self.world.peers[owner].crash)
        for peer in others:
            scheduler.at(alone + random.randint(0, TTL), peer.restart)
        scheduler.at(alone + 4 * TTL, self.world.peers[owner].restart)

    def lose_disk(self) -> None:
        """One machine is replaced by an empty one; never the only one, nor one that others still stand in for."""
        record, committed = self.world.registry.record, len(self.world.ledger.log)
        if record is None or record.leaving or min_in_sync(record) < 2 or len(record.replicas) < 3:
            return
        if not self.world.is_confirmed(record) or set(record.in_sync) != set(record.replicas):
            return
        peers = [self.world.peers[name] for name in record.replicas]
        if any(peer.copy.config is None or peer.copy.config.min_in_sync < 2 for peer in peers):
            return
        if all(peer.up and peer.copy.sound and len(peer.copy.log) >= committed for peer in peers):
            peer = self.random.choice(peers)
            peer.lose_disk()
            self._later(peer.restart)
