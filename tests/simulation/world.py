"""A cluster with one topic, and its run under faults from a seed."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.checks import Ledger, RecoveryError, demand
from tests.simulation.clients import Publisher, Reader
from tests.simulation.faults import Faults
from tests.simulation.frames import TTL
from tests.simulation.indexes import Index
from tests.simulation.nodes import Network
from tests.simulation.peers import Peer, first_record
from tests.simulation.registry import Record, Registry
from tests.simulation.rules import Rules
from tests.simulation.scheduler import MS, SECOND, Scheduler

FAULTS_UNTIL = 12 * SECOND
MENDED_WITHIN = 60 * SECOND


class World:
    """Peers, indexes, a registry, publishers and readers.

    Args:
        copies: How many the topic has; drawn by lot unless given.
        faults: What goes wrong (methods of `Faults`); drawn by lot unless given.
    """

    def __init__(
        self,
        seed: int,
        rules: Rules | None = None,
        *,
        copies: int | None = None,
        faults: Sequence[str] = (),
        narrate: bool = False,
    ) -> None:
        self.scheduler = Scheduler(seed, narrate=narrate)
        self.network = Network(self.scheduler)
        self.rules = rules if rules is not None else Rules()
        self.ledger = Ledger()
        random = self.scheduler.random
        drawn = random.choice([2, 3, 3, 3, 4])
        copies = drawn if copies is None else copies
        self._faults = faults
        names = [f"p{number}" for number in range(1, copies + random.randint(0, 2) + 1)]
        self.peers: dict[str, Peer] = {}
        for name in names:
            peer = Peer(self.scheduler, self.network, name, self.rules, self.ledger, self.peers)
            peer.offset, peer.rate = random.randint(0, 1000 * SECOND), random.uniform(0.85, 1.15)
            self.peers[name] = peer
        self.registry = Registry(self.scheduler, self.network)
        self.indexes = [
            Index(self.scheduler, self.network, f"index{number}", self.rules, self.registry, self.peers)
            for number in (1, 2)
        ]
        for index in self.indexes:
            index.offset = random.randint(
                0, TTL // 6
            )  # the clocks of indexes must agree to well within the ttl
        for peer in self.peers.values():
            peer.indexes = self.indexes
        policy = {"replicas": copies}
        if random.random() < 0.15:
            policy["min_in_sync"] = random.randint(1, copies)
        self._create(names[:copies], policy)
        self.publishers = [
            Publisher(self.scheduler, self.network, f"pub{number}", self.peers, self.ledger)
            for number in range(1, random.randint(2, 3))
        ]
        if random.random() < 0.5:
            self.publishers.append(
                Publisher(self.scheduler, self.network, "careless", self.peers, self.ledger)
            )
            self.publishers[-1].everybody = False
        for publisher in self.publishers:
            publisher.pausing = random.choice([30, 150, 400]) * MS
        self.readers = [Reader(self.scheduler, self.network, "reader", self.peers, self.ledger)]

    def _create(self, names: list[str], policy: dict[str, int]) -> None:
        """The topic has been created: the record stands, and its first owner has an empty copy on disk."""
        life = self.registry.on_view("", self.indexes[0].clock()).life
        self.registry.record = first_record(names, life, policy)
        self.peers[names[0]].create(self.registry.record)
        self.registry.on_write = self._written
        self.registry.save()

    def _written(self, before: object, after: object) -> None:
        """Within one life of the registry epochs only grow; what was restored may know less than what comes."""
        record = self.registry.record
        if record is not None and before is not None and record.life:
            demand(record.epoch >= before.epoch, f"the record goes back from {before} to {record}")  # type: ignore[attr-defined]

    @property
    def owner(self) -> str:
        """Who would be named if somebody asked."""
        record = self.registry.record
        return record.owner if record is not None else next(iter(self.peers))

    def is_confirmed(self, record: Record) -> bool:
        life = self.registry.on_view("", self.indexes[0].clock()).life
        return self.rules.is_confirmed(record, life)

    def begin(self) -> None:
        self.scheduler.say("world", "{} peers, {}", len(self.peers), self.registry.record)
        for node in (*self.indexes, *self.peers.values(), *self.publishers, *self.readers):
            node.begin()

    def run(self, mended_within: int = MENDED_WITHIN) -> None:
        """Faults, then none; raises what does not hold."""
        self.begin()
        Faults(self, self._faults).until(FAULTS_UNTIL)
        self.scheduler.run(FAULTS_UNTIL)
        self.mend()
        self.settle(mended_within)

    def mend(self) -> None:
        self.scheduler.say("world", "everything is mended")
        self.network.heal()
        for node in (*self.peers.values(), *self.indexes, self.registry):
            node.go_on()
            node.restart()

    def settle(self, within: int) -> None:
        """The last messages are acknowledged, all copies become equal, readers have read everything."""
        for publisher in self.publishers:
            publisher.stopping = True
        done = self.scheduler.run(self.scheduler.now + within, self.quiet)
        if not done:
            raise RecoveryError(f"the cluster does not recover: {self.describe()}")

    def quiet(self) -> bool:
        record = self.registry.record
        if record is None or record.leaving or not all(publisher.idle for publisher in self.publishers):
            return False
        if not self.is_confirmed(record) or set(record.in_sync) != set(record.replicas):
            return False
        copies = [self.peers[name].copy for name in record.replicas]
        committed = self.ledger.log
        return (
            all(copy.log == committed for copy in copies)
            and all(reader.position == len(committed) for reader in self.readers)
            and all(peer.up for peer in self.peers.values())
        )

    def describe(self) -> str:
        ends = {
            name: (len(peer.copy.log), peer.copy.committed, peer.copy.bond)
            for name, peer in self.peers.items()
        }
        idle = [publisher.idle for publisher in self.publishers]
        return (
            f"{self.registry.record}, copies {ends}, committed {len(self.ledger.log)}, publishers done {idle}"
        )
