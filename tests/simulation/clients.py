"""Who publishes and who reads, and what they hold the cluster to."""

from __future__ import annotations

from tests.simulation.checks import Ledger
from tests.simulation.nodes import Flow, Network, Node
from tests.simulation.peers import Peer
from tests.simulation.scheduler import MS, Scheduler


class Client(Node):
    """Asks whom it believes to be the owner, and another one when that was wrong."""

    def __init__(
        self, scheduler: Scheduler, network: Network, name: str, peers: dict[str, Peer], ledger: Ledger
    ) -> None:
        super().__init__(scheduler, network, name)
        self.peers, self.ledger = peers, ledger
        self._names = sorted(peers)
        self._at = scheduler.random.choice(self._names)

    def elsewhere(self) -> None:
        self._at = self.scheduler.random.choice(self._names)

    @property
    def owner(self) -> Peer:
        return self.peers[self._at]


class Publisher(Client):
    """A producer: numbers its messages, and sends each until it is acknowledged."""

    everybody = True
    """acks="all"; otherwise the owner's word is enough, and messages may be lost: then it begins as another producer.

    With acks="all" a message out of order can only be what an old owner says, which does not know of its end yet.
    """
    pausing = 120 * MS
    stopping = False
    acknowledged = 0
    lives = 0

    def begin(self) -> None:
        self.start(self._publishing())

    @property
    def idle(self) -> bool:
        return self.stopping and not self._busy

    def _publishing(self) -> Flow:
        sequence = 0
        self._busy = False
        while not self.stopping:
            yield self.sleep(self.scheduler.between(5 * MS, self.pausing))
            self._busy = True
            while True:
                answer = yield self.call(
                    self.owner,
                    "publish",
                    sequence,
                    self.everybody,
                    timeout=self.scheduler.between(200, 1500) * MS,
                )
                if answer is not None and answer[0] == "stored":
                    break
                if answer is not None and answer[0] == "out of order" and not self.everybody:
                    self.lives += 1
                    self.name = f"{self.name.partition('/')[0]}/{self.lives}"
                    sequence = 0
                self.elsewhere()
                yield self.sleep(self.scheduler.between(5 * MS, 80 * MS))
            if self.everybody:
                self.ledger.acknowledged(self.name, sequence, answer[1])
                self.acknowledged += 1
            sequence += 1
            self._busy = False


class Reader(Client):
    """A subscriber that reads from the start."""

    position = 0

    def begin(self) -> None:
        self.start(self._reading())

    def _reading(self) -> Flow:
        while True:
            part = yield self.call(self.owner, "read", self.position)
            if part is None:
                self.elsewhere()
            elif part[1]:
                self.position = self.ledger.read(self.name, *part)
            yield self.sleep(self.scheduler.between(10 * MS, 150 * MS))
