"""One replicated topic that this peer owns: what its copies have, what follows of it, and who waits for that.

Owns the answer to "is it committed yet". The rules are core's (core/replication); this carries what happens to them,
and what follows to those concerned. Nothing here is done for each message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pubsub.core.replication import Membership, OwnerProgress, Proposal, default_min_in_sync
from pubsub.errors import NotOwnerError, PubsubError, TooFewCopiesError
from pubsub.peer.feeding import Feeding
from pubsub.policy import stored_policy
from pubsub.protocol.messages import CopySet, CopyState
from pubsub.storage.store import Appended
from pubsub.storage.topic import Topic

UNCOMMITTED_BYTES = 1024 * 1024
"""What was appended and is not committed is kept in memory for groups up to this size; then they read it from disk."""

Answer = Callable[[list[str] | None, PubsubError | None], None]
"""Called with who has a batch once it is committed, or with why that is not known."""


class Owned:
    """See the module's text."""

    __slots__ = (
        "_uncommitted_bytes",
        "beside_acked",
        "beside_number",
        "beside_waiting",
        "feedings",
        "heard_at",
        "lag_us",
        "progress",
        "proposing",
        "retry_at",
        "topic",
        "uncommitted",
        "waiting",
    )

    def __init__(self, topic: Topic, now: int) -> None:
        epochs = topic.log_epochs
        self.topic = topic
        self.lag_us = lag_of(topic)
        self.progress = OwnerProgress(
            peer=topic.owner,
            epoch_start=epochs[-1].start,
            log_end=topic.next_offset,
            committed=topic.committed,
            membership=membership(topic),
            now=now,
            proposal=topic.proposal,
            known=topic.configs,
        )
        self.feedings: dict[str, Feeding] = {}
        """By the peer that follows."""
        self.waiting: deque[tuple[int, Answer]] = deque()
        """(offset behind a batch, who waits until it is committed), in the order of the log mostly."""
        self.uncommitted: deque[Appended] = deque()
        self._uncommitted_bytes = 0
        self.heard_at: dict[str, int] = {}
        """Peer -> when it has last reported on this topic, in this epoch."""
        self.beside_number = 0
        """Counts the transactions that changed what the topic has besides messages."""
        self.beside_acked: dict[str, int] = {}
        """Peer -> the last of them that its copy has."""
        self.beside_waiting: deque[tuple[int, Callable[[PubsubError | None], None]]] = deque()
        """Who waits until all copies that are in sync have one, in order."""
        self.proposing = False
        """Whether a proposal is being stored or sent."""
        self.retry_at = 0
        """When it may be sent again."""

    def appended(self, appended: Appended, now: int, *, keep: bool) -> None:
        """A commit of this peer has added to the log; `keep` it for groups until it is committed."""
        self.progress.appended(self.topic.next_offset, now)
        if keep and self._uncommitted_bytes < UNCOMMITTED_BYTES:
            self.uncommitted.append(appended)
            self._uncommitted_bytes += appended.size_bytes

    def take_committed(self) -> list[Appended]:
        """What was kept and is committed by now."""
        taken = []
        committed = self.topic.committed
        while self.uncommitted:
            first = self.uncommitted[0]
            if first.first_offset + len(first.payloads) > committed:
                break
            taken.append(self.uncommitted.popleft())
            self._uncommitted_bytes -= first.size_bytes
        return taken

    # Who waits

    def refusal(self) -> PubsubError | None:
        """Why nothing is taken that is to be on all copies that are in sync; None: it is taken."""
        progress = self.progress
        if progress.enough:
            return None
        if progress.resigning or progress.superseded:
            return NotOwnerError(f"topic {self.topic.name} is being handed over; ask for its owner again")
        in_sync = sorted(progress.in_sync)
        least = progress.membership.min_in_sync
        return TooFewCopiesError(
            f"topic {self.topic.name} has {len(in_sync)} copies in sync ({', '.join(in_sync)}), and needs {least} "
            'for acks="all"; publish again when peers are back',
            in_sync=in_sync,
            min_in_sync=least,
        )

    def wait(self, stop: int, answer: Answer) -> None:
        """Call `answer` once everything below `stop` is committed."""
        if stop <= self.topic.committed:
            answer(self.progress.holders(stop), None)
        else:
            self.waiting.append((stop, answer))

    def answer_committed(self) -> None:
        """Tell those who waited for what is committed now."""
        committed, waiting = self.topic.committed, self.waiting
        if not waiting or (waiting[0][0] > committed and len(waiting) == 1):
            return
        left: deque[tuple[int, Answer]] = deque()
        while waiting:
            stop, answer = waiting.popleft()
            if stop <= committed:
                answer(self.progress.holders(stop), None)
            else:
                left.append((stop, answer))
                if len(left) > 1 and stop > left[-2][0]:  # in order from here on
                    left.extend(waiting)
                    break
        self.waiting = left

    def wait_beside(self, done: Callable[[PubsubError | None], None]) -> None:
        """Call `done` once the copies in sync have what has been changed besides messages up to now."""
        self.beside_waiting.append((self.beside_number, done))
        self.answer_beside()

    def answer_beside(self) -> None:
        """Tell those who waited for what all copies that are in sync have by now."""
        if not self.beside_waiting:
            return
        others = self.progress.counted - {self.progress.peer}
        had = min((self.beside_acked.get(peer, -1) for peer in others), default=self.beside_number)
        while self.beside_waiting and self.beside_waiting[0][0] <= had:
            self.beside_waiting.popleft()[1](None)

    def fail_beside(self, error: PubsubError) -> None:
        """This peer owns the topic no more: whether what was changed stays so is not known."""
        waiting, self.beside_waiting = self.beside_waiting, deque()
        for _, done in waiting:
            done(error)

    def fail_waiting(self, error: PubsubError) -> None:
        """Tell all who wait that it is not known whether theirs will be committed."""
        error.data["fate"] = "unknown"
        waiting, self.waiting = self.waiting, deque()
        for _, answer in waiting:
            answer(None, error)

    @property
    def copy_set(self) -> CopySet:
        """For followers to store."""
        config = self.progress.config
        return CopySet(config.epoch, config.version, list(config.replicas), config.min_in_sync)

    def unsaved(self, proposal: Proposal | None) -> bool:
        """Whether the file does not know yet which sets count, or what is proposed."""
        return self.topic.proposal != proposal or self.topic.configs != tuple(self.progress.configs)


def lag_of(topic: Topic) -> int:
    """How long a copy may be silent or behind, microseconds."""
    return round(stored_policy(topic.policy).replica_lag_seconds * 1e6)


def membership(record: Topic | CopyState) -> Membership:
    """What the record of a topic says, as this peer knows it."""
    policy = stored_policy(record.policy)
    return Membership(
        owner=record.owner,
        epoch=record.epoch,
        version=record.version,
        in_sync=tuple(record.in_sync),
        replicas=tuple(record.replicas),
        min_in_sync=policy.min_in_sync or default_min_in_sync(policy.replicas),
    )
