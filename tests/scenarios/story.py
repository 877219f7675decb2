"""A small cluster to tell stories of: the simulated one (tests/simulation), with faults where the story has them.

Every invariant of the simulation is checked at every step of a story, too.
"""

from __future__ import annotations

from collections.abc import Callable

from pubsub.core.failover import loss_of, promote
from pubsub.core.ownership import Change
from tests.simulation.clients import Client
from tests.simulation.copies import Entry
from tests.simulation.frames import TTL
from tests.simulation.nodes import Flow
from tests.simulation.peers import Peer
from tests.simulation.registry import Record
from tests.simulation.scheduler import MS, SECOND
from tests.simulation.world import World

PATIENCE = 60 * SECOND


class Story:
    """One topic on `copies` peers, of which `p1` is the first owner; two indexes; no fault yet."""

    def __init__(self, copies: int) -> None:
        self.world = World(1, copies=copies)
        self.world.publishers, self.world.readers = [], []
        self._client = Client(
            self.world.scheduler, self.world.network, "client", self.world.peers, self.world.ledger
        )
        self._published = 0
        self.world.begin()
        self.until(lambda: self.in_sync == set(self.record.replicas))

    # What there is

    @property
    def record(self) -> Record:
        assert self.world.registry.record is not None
        return self.world.registry.record

    @property
    def in_sync(self) -> set[str]:
        return set(self.record.in_sync)

    @property
    def owner(self) -> str:
        return self.record.owner

    def peer(self, name: str) -> Peer:
        return self.world.peers[name]

    def log(self, name: str) -> list[Entry]:
        return list(self.peer(name).copy.log)

    @property
    def committed(self) -> int:
        return len(self.world.ledger.log)

    def serves(self, name: str) -> bool:
        """Whether the peer believes that it owns the topic."""
        return self.peer(name).progress is not None

    @property
    def owner_serves(self) -> bool:
        """Whether the owner has begun the epoch that the record says."""
        progress = self.peer(self.owner).progress
        return progress is not None and progress.epoch == self.record.epoch

    # What happens

    def wait(self, seconds: float) -> None:
        self.world.scheduler.run(self.world.scheduler.now + int(seconds * SECOND))

    def ttl_passes(self) -> None:
        self.wait(2 * TTL / SECOND)

    def until(self, condition: Callable[[], bool]) -> None:
        end = self.world.scheduler.now + PATIENCE
        while not condition():
            assert self.world.scheduler.now < end, f"it never came to that: {self.world.describe()}"
            self.world.scheduler.run(self.world.scheduler.now + 10 * MS)

    def publish(self, to: str, messages: int = 1, *, acks: str = "all") -> list[str]:
        """Publish to this peer, one by one; what it answers to each: stored, not owner, ... or silence."""
        answers: list[str] = []

        def publishing() -> Flow:
            for _ in range(messages):
                call = self._client.call(
                    self.peer(to), "publish", self._published, acks == "all", timeout=SECOND
                )
                answer = yield call
                answers.append("silence" if answer is None else answer[0])
                self._published += answers[-1] == "stored"

        self._client.start(publishing())
        self.until(lambda: len(answers) == messages)
        return answers

    def cut(self, one: str, other: str) -> None:
        self.world.network.cut |= {(one, other), (other, one)}

    def cut_from_indexes(self, name: str) -> None:
        for index in self.world.indexes:
            self.cut(name, index.name)

    def heal(self) -> None:
        self.world.network.heal()

    def promote(self, name: str, *, accept_loss: bool) -> bool:
        """`pubsub topic promote`, on the record as it stands."""
        registry = self.world.registry
        life = registry.on_view("", self.world.indexes[0].clock()).life
        candidates = [peer.copy.candidate(peer.name) for peer in self.world.peers.values() if peer.up]
        chosen = self.peer(name).copy.candidate(name)
        loss = loss_of(self.record, chosen, candidates, life=life)
        epoch = max([self.record.epoch, *(candidate.heard for candidate in candidates)]) + 1
        change = promote(
            self.record, chosen, loss, epoch=epoch, life=life, alive={name}, accept_loss=accept_loss
        )
        if not isinstance(change, Change):
            return False
        return registry.on_cas("operator", life, self.record, self.record.after(change))[0]
