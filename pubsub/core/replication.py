"""What an owner knows of the copies of its topic: what is committed, who is in sync, and who shall be.

Rules (those of Kafka's log replication, KIP-966 among them, with the registry's compare-and-set as the arbiter):
- Any copy that the registry may hold to be in sync may become the owner. So a message is committed once all of those
  have it on disk: the ones in the record as confirmed, and the ones in a change that has been proposed and of which
  the outcome is not known. Thus one on its way in counts from the moment it is proposed, and one on its way out
  until the registry has confirmed.
- And once at least `min_in_sync` copies have it, whoever is in sync: then any `answers_needed` copies that answer after
  a loss of the registry have among them every committed message (core/rebuild).
- A replica leaves when it was out of contact, or behind, for longer than `lag`; also when it says that it is about to
  stop, as long as `min_in_sync` copies remain, for without those nothing could be committed anyway. It comes in when it
  has all that is committed and has caught up with the log as it was at its report before, in this epoch.
- Where publishing never pauses, a copy that keeps up is still a moment behind whenever one looks. So one that has
  caught up in that sense is waited for: it counts for what is committed from then on, until it has that and is
  proposed, but for `JOIN_US` at most. To count one copy more is always safe.
- One proposal at a time. It is stored before it is sent, and stays in force until the registry tells a newer version
  of the record: asking again changes nothing, and giving up is not possible, for it may still arrive.
- A change of the set of replicas counts besides the former set until enough of those have stored it.

The log end of the owner is that of its disk, too, and it sends followers only what is there: a copy never has in an
epoch what its owner has lost.

Instants are microseconds of one monotonic clock of this peer. Nothing here is per message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from pubsub.core.follower import Follower

JOIN_US = 1_000_000
"""How long what is committed may wait for a copy that is about to come in. One that takes longer has to wait itself,
for as long as a copy may be behind."""


def default_min_in_sync(copies: int) -> int:
    """How many copies must have a message: a majority from three on; 1 of one or two, where the registry arbitrates."""
    return copies // 2 + 1 if copies > 2 else 1


def answers_needed(copies: int, min_in_sync: int) -> int:
    """How many copies decide about a topic of which the record was lost.

    Whichever they are, one of them has each message that `min_in_sync` copies have. And they are a majority: so one
    copy that was taken away, and was not there to be told, can never decide by the set that it was in.
    """
    return max(copies - min_in_sync + 1, copies // 2 + 1)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """On whom a topic lives, and how many must have a message. Copies store the newest that their owner told them."""

    epoch: int
    version: int
    replicas: tuple[str, ...]
    min_in_sync: int

    @property
    def order(self) -> tuple[int, int]:
        """Of two, the one with the greater order is the newer. A registry that was lost begins versions anew."""
        return self.epoch, self.version

    def same_as(self, other: Config) -> bool:
        return set(self.replicas) == set(other.replicas) and self.min_in_sync == other.min_in_sync


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What the record of a topic says of its copies."""

    owner: str
    epoch: int
    version: int
    in_sync: tuple[str, ...]
    replicas: tuple[str, ...]
    min_in_sync: int

    @property
    def order(self) -> tuple[int, int]:
        return self.epoch, self.version

    @property
    def config(self) -> Config:
        return Config(
            epoch=self.epoch, version=self.version, replicas=self.replicas, min_in_sync=self.min_in_sync
        )


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """Change the record of this epoch and version so that these are in sync; the owner is the first of them."""

    epoch: int
    version: int
    in_sync: tuple[str, ...]


class Contacts:
    """When each peer was last heard of, for all topics that this one owns.

    Time in which this process itself did not run (stopped, suspended) is nobody's fault: it is not counted.

    Args:
        lag: How long a follower may be silent or behind.
    """

    __slots__ = ("_heard", "_leaving", "_ticked_at", "awake_since", "lag")

    def __init__(self, lag: int, now: int) -> None:
        self.lag = lag
        self.awake_since = now
        self._ticked_at = now
        self._heard: dict[str, int] = {}
        self._leaving: set[str] = set()

    def heard(self, peer: str, now: int) -> None:
        self._heard[peer] = now
        self._leaving.discard(peer)

    def leaves(self, peer: str) -> None:
        """It is about to stop: nobody is to wait for it, until it is heard of again."""
        self._leaving.add(peer)

    def nobody_leaves(self) -> None:
        """This peer is about to stop itself: where all stop at once, who is in sync stays so."""
        self._leaving.clear()

    def is_leaving(self, peer: str) -> bool:
        return peer in self._leaving

    def tick(self, now: int) -> None:
        """To be called several times within a lag."""
        if now - self._ticked_at > self.lag // 2:
            self.awake_since = now
        self._ticked_at = now

    def heard_at(self, peer: str) -> int:
        return max(self._heard.get(peer, self.awake_since), self.awake_since)

    def silent(self, peer: str, since: int, now: int) -> bool:
        """Whether nothing was heard of it for too long, of which time before `since` does not count."""
        return now - max(self.heard_at(peer), since) > self.lag


class OwnerProgress:
    """The copies of one topic, as seen by the owner in one epoch.

    0 <= committed <= log_end, and `committed` never shrinks.

    Args:
        epoch_start: The owner's log end when it began this epoch.
        log_end, committed: As stored.
        membership: The record by which this peer owns the topic in this epoch; of a peer that was restarted the
            newest that it stored. It stores one before it tells it by `confirmed`.
        proposal: One that was stored and of which the outcome was not known when the peer was stopped.
        known: The configs that the copy has stored, if it was a follower before or has been restarted.
    """

    __slots__ = (
        "_configs",
        "_followers",
        "_joining",
        "_since",
        "_wait_until",
        "committed",
        "epoch",
        "epoch_start",
        "log_end",
        "membership",
        "peer",
        "proposal",
        "resigning",
        "superseded",
    )

    def __init__(
        self,
        *,
        peer: str,
        epoch_start: int,
        log_end: int,
        committed: int,
        membership: Membership,
        now: int,
        proposal: Proposal | None = None,
        known: Iterable[Config] = (),
    ) -> None:
        self.peer = peer
        self.epoch = membership.epoch
        self.epoch_start = epoch_start
        self.log_end = log_end
        self.committed = committed
        self.membership = membership
        self.proposal = None
        if proposal is not None and (proposal.epoch, proposal.version) == membership.order:
            self.proposal = proposal  # else it was taken, or can never be
        self.resigning = False
        self.superseded = False
        """A newer epoch has begun: this is over."""
        self._since = now
        self._followers: dict[str, Follower] = {}
        self._joining: dict[str, int] = {}
        """Copies that are waited for, and since when."""
        self._wait_until: dict[str, int] = {}
        """Copies that are not waited for again before then."""
        self._configs: list[Config] = []
        for config in [*sorted(known, key=lambda config: config.order), membership.config]:
            self._add_config(config)
        self._advance()

    # What happened

    def appended(self, log_end: int, now: int) -> None:
        """The owner's log is on disk up to here."""
        for follower in self._followers.values():
            follower.left_behind(self.log_end, now)
        self.log_end = log_end
        self._advance()

    def followed(
        self,
        peer: str,
        epoch: int,
        log_end: int,
        now: int,
        config: tuple[int, int] = (0, 0),
        *,
        sound: bool = True,
    ) -> None:
        """A copy that agrees with this owner's log has it on disk up to `log_end`.

        Args:
            epoch: In which it followed; a report of another epoch counts for nothing.
            config: `order` of the newest `Config` that it has stored.
            sound: False from a copy that has lost something and was not told since that it is sound (core/follower).
        """
        if epoch != self.epoch or peer == self.peer or log_end > self.log_end:
            return
        follower = self._followers.get(peer)
        if follower is None:
            follower = self._followers[peer] = Follower(self._since)
        follower.config = max(follower.config, config)
        follower.reported(log_end, self.log_end, now, sound=sound, in_sync=peer in self.counted)
        self._settle_configs()
        self._advance()

    def confirmed(self, membership: Membership) -> None:
        """The registry holds this. What is not newer than what was known is ignored."""
        if membership.order <= self.membership.order:
            return
        if membership.epoch != self.epoch:
            self.superseded = True
            return
        self.membership = membership
        self.proposal = None  # it was for an older version: taken, or never to be
        for peer, follower in self._followers.items():
            if peer not in membership.in_sync:
                follower.out()
        self._add_config(membership.config)
        self._settle_configs()
        self._advance()

    def resign(self) -> None:
        """Take no more publishes, and look for a successor."""
        self.resigning = True

    def tick(self, now: int, contacts: Contacts) -> Proposal | None:
        """The change that shall be stored, then sent to the registry, if any; the same one until its outcome is known.

        Need not be called for a topic that is `quiet` while all its replicas are in contact.
        """
        if self.superseded:
            return None
        self._wait_for_joining(now, contacts)
        if self.proposal is None:
            wanted = self._wanted(now, contacts)
            if set(wanted) != set(self.membership.in_sync):
                self.proposal = Proposal(epoch=self.epoch, version=self.membership.version, in_sync=wanted)
                # From here on both sets count, also if it is never sent.
                for peer in wanted:
                    self._joining.pop(peer, None)
                self._advance()
        return self.proposal

    def comes_in(self, peer: str) -> bool:
        """Whether a copy that was waited for has what is committed: the next `tick` should not be waited for."""
        follower = self._followers.get(peer)
        return peer in self._joining and follower is not None and (follower.log_end or 0) >= self.committed

    # What follows

    @property
    def counted(self) -> set[str]:
        """Copies that the registry may hold to be in sync."""
        return {*self.membership.in_sync, *(self.proposal.in_sync if self.proposal is not None else ())}

    @property
    def in_sync(self) -> set[str]:
        """Copies that are in sync and shall stay so."""
        confirmed = set(self.membership.in_sync)
        return confirmed & set(self.proposal.in_sync) if self.proposal is not None else confirmed

    @property
    def enough(self) -> bool:
        """Whether a publish with acks="all" may be taken."""
        return not self.resigning and len(self.in_sync) >= self.membership.min_in_sync

    @property
    def quiet(self) -> bool:
        """All replicas are in sync and have everything; nothing is under way."""
        return (
            self.proposal is None
            and len(self._configs) == 1
            and self.committed == self.log_end
            and set(self.membership.in_sync) == set(self.membership.replicas)
            and all(follower.standing != "lost" for follower in self._followers.values())
        )

    @property
    def config(self) -> Config:
        """What followers are told to store."""
        return self._configs[-1]

    @property
    def configs(self) -> Sequence[Config]:
        """Those that count, the newest last; to be stored, for an owner that restarts."""
        return tuple(self._configs)

    def log_end_of(self, peer: str) -> int | None:
        """Up to where a copy has the log on disk, as reported in this epoch."""
        if peer == self.peer:
            return self.log_end
        follower = self._followers.get(peer)
        return follower.log_end if follower is not None else None

    def admits(self, peer: str) -> bool:
        """Whether a copy that says it is not sound shall be told that it is: it has come in since it lost something."""
        follower = self._followers.get(peer)
        return follower is not None and follower.standing == "returning" and peer in self.in_sync

    def holders(self, end: int) -> list[str]:
        """The copies that have everything below `end` on disk, the owner first."""
        found = [peer for peer, follower in self._followers.items() if (follower.log_end or -1) >= end]
        return [*([self.peer] if self.log_end >= end else []), *sorted(found)]

    def successor(self, candidates: Collection[str] | None = None) -> str | None:
        """Who may be handed the topic: an in-sync copy that has the whole log.

        Args:
            candidates: Peers among which to look; None: any.
        """
        fit = (
            peer
            for peer in self.in_sync - {self.peer}
            if self._is_level(peer) and (candidates is None or peer in candidates)
        )
        return min(fit, default=None)

    # Inside

    def _is_level(self, peer: str) -> bool:
        follower = self._followers.get(peer)
        return follower is not None and follower.standing == "sound" and follower.log_end == self.log_end

    def _wanted(self, now: int, contacts: Contacts) -> tuple[str, ...]:
        others = [peer for peer in self.membership.replicas if peer != self.peer]
        staying = {peer for peer in others if self._keeps_up(peer, now, contacts)}
        for peer in [peer for peer in others if peer in staying and contacts.is_leaving(peer)]:
            if peer not in self.membership.in_sync or len(staying) >= self.membership.min_in_sync:
                staying.discard(peer)
        return (self.peer, *(peer for peer in others if peer in staying))

    def _keeps_up(self, peer: str, now: int, contacts: Contacts) -> bool:
        in_sync, follower = peer in self.membership.in_sync, self._followers.get(peer)
        if follower is None:
            silent = contacts.silent(peer, self._since, now)
            return in_sync and not silent and self._recent(self._since, now, contacts)
        return self._is_near(peer, follower, now, contacts) and (
            in_sync or follower.has_caught_up(max(self.committed, self.epoch_start), self.log_end)
        )

    def _is_near(self, peer: str, follower: Follower, now: int, contacts: Contacts) -> bool:
        """Whether a copy is in contact, has lost nothing, and has not been behind for too long."""
        return (
            follower.standing != "lost"
            and not contacts.silent(peer, self._since, now)
            and self._recent(follower.behind_since(self.log_end, now), now, contacts)
        )

    def _wait_for_joining(self, now: int, contacts: Contacts) -> None:
        """See who is about to come in, and wait no more for who takes too long or has fallen behind."""
        joining: dict[str, int] = {}
        for peer in set(self.membership.replicas) - self.counted - {self.peer}:
            follower = self._followers.get(peer)
            if (
                follower is None
                or contacts.is_leaving(peer)
                or not self._is_near(peer, follower, now, contacts)
                or not follower.has_caught_up(self.epoch_start, self.log_end)
            ):
                continue
            since = self._joining.get(peer, now)
            if now - since > JOIN_US:
                self._wait_until[peer] = now + contacts.lag
            elif now >= self._wait_until.get(peer, now):
                joining[peer] = since
        self._joining = joining
        self._advance()

    def _recent(self, instant: int, now: int, contacts: Contacts) -> bool:
        return now - max(instant, contacts.awake_since) <= contacts.lag

    def _advance(self) -> None:
        counted = self.counted
        if any(len(counted.intersection(c.replicas)) < c.min_in_sync for c in self._configs):
            return
        low = self.log_end
        for peer in {*counted, *self._joining} - {self.peer}:
            follower = self._followers.get(peer)
            end = follower.counts_to if follower is not None else None
            if end is None:
                return
            low = min(low, end)
        self.committed = max(self.committed, low)

    def _add_config(self, config: Config) -> None:
        if self._configs and self._configs[-1].same_as(config):
            return
        self._configs.append(config)

    def _settle_configs(self) -> None:
        """A former set counts no more once any who might decide by it would hear of a newer one."""
        while len(self._configs) > 1:
            former, newer = self._configs[0], self._configs[1]
            told = sum(peer == self.peer or self._knows(peer, newer) for peer in former.replicas)
            copies = len(former.replicas)
            if copies - told >= answers_needed(copies, former.min_in_sync):
                return
            del self._configs[0]

    def _knows(self, peer: str, config: Config) -> bool:
        follower = self._followers.get(peer)
        return follower is not None and follower.config >= config.order
