"""What an index asks of its registry, and the records that it gets.

Rules that every implementation keeps, and that the conformance suite checks:

- A topic record changes only by compare-and-set. A peer record belongs to one incarnation.
- Whatever is done twice because a reply got lost ends as if done once.
- Calls that take many records cost a fixed number of round trips, not one for each record.
- Without its server every call raises RegistryUnavailableError, within seconds, and works again by itself
  when the server is back; `watch` waits instead and says "resync".
- Damaged records count as absent: the next announcement or registration writes them anew.

Instants (`now`, `*_at`) are integer microseconds UTC; a ttl is in seconds. Liveness is judged by deadlines
that were written with one index's clock and are read with another's: the clocks of the indexes must agree to
well within the ttl. What to do about a dead peer is decided elsewhere (core, index).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a registry: one that was wiped, or set back to an older state, begins a new life."""

    id: str
    created_at: int
    """When it was found so. No ownership decision is taken before a full ttl has passed since."""
    schema: int


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registered incarnation of a peer."""

    name: str
    address: str
    incarnation: str
    """`<node id>.<start count>`. The node id stands for the data directory; the count grows at each start."""
    version: str
    started_at: int
    heartbeat_at: int
    load: Mapping[str, float] = {}
    reachable: bool = True
    """Whether the index could dial the address at registration."""
    zone: str = ""
    """What fails together with it; empty: not named."""
    draining: bool = False
    """Whether everything is to be moved off it; only `set_draining` changes it."""


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """A peer of which the registry knows, alive or not."""

    name: str
    alive: bool
    deadline_at: int
    """Until when its last heartbeat is believed."""
    topics: int
    """How many topics it holds a copy of, as last announced."""
    record: PeerRecord | None
    """None once its record has expired."""


class RegisterResult(msgspec.Struct, frozen=True, kw_only=True):
    """`held`: another data directory has the name. `superseded`: the same one was started again since."""

    outcome: Literal["registered", "held", "superseded"]
    holder: PeerRecord | None = None
    """The record in the way, unless registered."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life."""

    name: str
    incarnation: str
    load: Mapping[str, float] = {}


HeartbeatOutcome = Literal["ok", "missing", "superseded"]
"""`missing`: the peer must register and announce again. `superseded`: another incarnation holds the name."""


class TopicRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns a topic. `version` grows with each change of the record; only the registry sets it."""

    name: str
    id: int
    owner: str
    epoch: int
    version: int = 0
    in_sync: Sequence[str] = ()
    """Peers that hold everything committed, the owner among them."""
    replicas: Sequence[str] = ()
    """Peers on which the topic shall live, the owner among them."""
    policy: Mapping[str, Any] = {}
    created_at: int
    leaving: Sequence[str] = []
    """Replicas that go, once enough others are in sync."""
    life: str = ""
    """The generation of the registry in which the ownership of a replicated topic was decided."""
    lossy: bool = False
    """Its owner was made owner on an operator's word, and may have missed committed messages."""

    @property
    def replicated(self) -> bool:
        """Whether it lives, or is to live, on several peers, or to leave one: somebody has to look after it."""
        return len(self.holders) > 1 or bool(self.leaving) or self.policy.get("replicas", 1) != 1

    @property
    def holders(self) -> set[str]:
        """The peers that hold a copy, or are to."""
        return {self.owner, *self.replicas}


class CasResult(msgspec.Struct, frozen=True, kw_only=True):
    """`current` is what the registry holds now, whether or not the change was `applied`."""

    applied: bool
    current: TopicRecord | None


class SubscriberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where a subscription is served and since when."""

    peer: str
    since: int
    until: int
    """Until when this is believed unless reported again."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something changed: look it up. `resync`: events may have been missed, look everything up."""

    kind: Literal["topic", "peer", "resync"]
    name: str = ""
    replicated: bool = False
    """Of a topic: `TopicRecord.replicated`, of the record as it is now."""
    draining: bool = False
    """Of a peer: it is to be drained from now on, or not any more."""


class Registry(ABC):
    """Records of peers and topics, shared by all indexes. See the module's docstring for the rules."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where this registry is, for people; without a password."""

    @abstractmethod
    async def open(self) -> None:
        """Get ready. Does not need the server to be there yet.

        Raises:
            SettingsError: what was configured cannot work, such as a port in use.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; idempotent. Stop those who iterate over `watch` first."""

    @abstractmethod
    async def generation(self, now: int) -> Generation:
        """Say which life this is. An empty registry begins a new one, and so does one that was set back.

        It was set back if it has forgotten an earlier call; and it may have been if it is in another process than
        the one in which its life was begun: an old snapshot was loaded, or a replica took over that lagged behind.
        """

    # Peers

    @abstractmethod
    async def register_peer(self, record: PeerRecord, ttl_seconds: float, now: int) -> RegisterResult:
        """Record a peer as alive until `now` + ttl, unless another incarnation has the better right.

        A live record of another node id keeps the name; so does a later start of the same node id.
        """

    @abstractmethod
    async def heartbeat(
        self, beats: Sequence[Heartbeat], ttl_seconds: float, now: int
    ) -> list[HeartbeatOutcome]:
        """Believe those who hold their record until `now` + ttl; leaves no trace of the others."""

    @abstractmethod
    async def remove_peer(self, name: str, incarnation: str) -> bool:
        """Forget a peer that says goodbye; False if another incarnation holds the name.

        What copies it holds stays known: a topic whose owner is away is offline, not gone.
        """

    @abstractmethod
    async def peers(self, now: int, names: Collection[str] | None = None) -> list[PeerState]:
        """All peers that have not said goodbye, by name; or those of them that are named."""

    @abstractmethod
    async def peer(self, name: str, now: int) -> PeerState | None:
        """One peer, or None if it is not known or said goodbye."""

    @abstractmethod
    async def deadlines(self, names: Collection[str] | None = None) -> dict[str, int]:
        """Until when the last heartbeat of each peer is believed, or of those named; less to read than `peers`.

        Who is not known, or said goodbye, is left out.
        """

    @abstractmethod
    async def set_draining(self, name: str, draining: bool) -> bool:
        """Mark a peer as one that everything is to be moved off, until it is started anew; False: it is away."""

    # Topics

    @abstractmethod
    async def compare_and_set_topic(
        self, name: str, expected: TopicRecord | None, record: TopicRecord | None
    ) -> CasResult:
        """Replace the record that was read as `expected` by `record`, if it is still that one.

        Compared are id, epoch and version, so that a deleted and re-created topic is never taken for the old
        one. `expected` None: create, if there is none. `record` None: delete. The new version is set here: more
        than that of `expected` and than that of `record`; of one that is created that of `record`, but from 1 on,
        so that it does not begin anew in a registry that was wiped.
        """

    @abstractmethod
    async def compare_and_set_topics(
        self, changes: Sequence[tuple[TopicRecord, TopicRecord]]
    ) -> list[CasResult]:
        """`compare_and_set_topic` of many records, each by itself: (as read, to be)."""

    @abstractmethod
    async def restore_topics(self, records: Sequence[TopicRecord]) -> list[CasResult]:
        """Create those that are absent, and make sure that all are listed; `current` tells what holds now.

        This is what an announcement does, so it also heals whatever an index left half done when it died. Ask
        `buried` first: what was deleted must not be restored.
        """

    @abstractmethod
    async def lookup(self, names: Sequence[str]) -> list[TopicRecord | None]:
        """The records of these topics, in this order."""

    @abstractmethod
    async def topics(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[TopicRecord]:
        """Topics by name: those that begin with `prefix` and come after `after`.

        Fewer than `limit`: there are no more.
        """

    @abstractmethod
    async def replicated_topics(self) -> set[str]:
        """The names of those that are `replicated`; one of which the record is not any more, or gone, may be there."""

    @abstractmethod
    async def count_topics(self) -> int:
        """How many topics are listed; one whose creation or deletion was left half done may count."""

    @abstractmethod
    async def announce_copies(self, peer: str, held: Iterable[str], known: Collection[str]) -> None:
        """Note of which topics a peer holds a copy, and of which it does not any more.

        Only what differs between the two is written, so what others have noted or removed since stays as it is.

        Args:
            held: what the peer holds.
            known: what `topics_of` gave before that was decided.
        """

    @abstractmethod
    async def topics_of(self, peer: str) -> set[str]:
        """Topics of which a peer holds a copy."""

    # Tombstones

    @abstractmethod
    async def bury(self, topic_id: int, now: int) -> None:
        """Remember for 30 days that the topic with this id was deleted: no announcement may restore it."""

    @abstractmethod
    async def buried(self, topic_ids: Sequence[int]) -> set[int]:
        """Which of these were deleted."""

    # Subscribers

    @abstractmethod
    async def report_subscribers(
        self, peer: str, reports: Mapping[str, Mapping[str, int]], ttl_seconds: float, now: int
    ) -> None:
        """Replace the subscriptions that `peer` serves, for each topic given: subscription -> since.

        They are believed until `now` + ttl. Entries of other peers are kept.
        """

    @abstractmethod
    async def subscribers(self, topic: str, now: int) -> dict[str, SubscriberRecord]:
        """The subscriptions of a topic."""

    # Events

    @abstractmethod
    def watch(self) -> AsyncGenerator[list[Event], None]:
        """Changes as they happen, never ending, in batches.

        The first is a "resync", sent when events have begun to flow: read the state after it and nothing is
        missed. Another one comes after each interruption, however long the server was away.
        The same change told twice in a row may be given once. Close the iterator (contextlib.aclosing) when done.
        """
