"""How the demo went: counted at the publishers and at the subscribers, for people and as one object."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pubsub.cli.demo_failover import Failover
from pubsub.cli.demo_load import Load, percentile
from pubsub.cli.demo_site import PEERS, REPLICATED
from pubsub.cli.demo_subscriber import Tally


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. What is lost and doubled is counted over all subscribers."""

    published: int
    """To all topics."""
    delivered: int
    """By all subscribers together."""
    lost: int
    doubled: int
    rate: int
    """Published per second, from the first publish to the last delivery."""
    burst_rate: int
    """Published per second by one publisher within a burst, to a topic of one copy."""
    p50_ms: float
    p99_ms: float
    """From a single publish to its acknowledgement, which is after the fsync; to a topic of one copy."""
    subscribers: int
    peers: int
    seconds: float
    restarted: str
    """The peer that was killed and came back: the old owner."""
    away_seconds: float
    replicated_topic: str
    replicated_published: int
    replicated_lost: int
    replicated_doubled: int
    replicated_p50_ms: float
    """As `p50_ms`; the acknowledgement is after the fsync of every copy that is in sync."""
    failover_pause_ms: float | None
    """The longest that its publisher waited for the next acknowledgement around the kill; None: nobody took over."""
    old_owner: str
    new_owner: str | None
    in_sync: list[str]
    """The peers that had all of it at the end."""

    @property
    def flawless(self) -> bool:
        """Whether everything came, once, and a new owner took over."""
        counted = self.lost == 0 and self.doubled == 0 and self.published > 0
        replicated = (
            self.replicated_lost == 0 and self.replicated_doubled == 0 and self.replicated_published > 0
        )
        return counted and replicated and self.new_owner is not None and self.failover_pause_ms is not None


def summarize(
    loads: Sequence[Load],
    tallies: Sequence[dict[str, Tally]],
    failover: Failover,
    in_sync: Sequence[str],
    seconds: float,
) -> Summary:
    """Put together what was counted.

    Args:
        in_sync: Who has all of the replicated topic.
        seconds: From the first publish to the last delivery.
    """
    single = [load for load in loads if load.topic != REPLICATED]
    (replicated,) = (load for load in loads if load.topic == REPLICATED)
    published = sum(load.published for load in loads)
    counted = [tally for report in tallies for tally in report.values()]
    latencies_ms = [latency for load in single for latency in load.latencies_ms]
    burst_seconds = sum(load.burst_seconds for load in single)
    burst_messages = sum(load.burst_messages for load in single)
    pause = failover.pause_seconds(replicated.acknowledged_at)
    copies = [report.get(REPLICATED, Tally()) for report in tallies]
    return Summary(
        published=published,
        delivered=sum(tally.received for tally in counted),
        lost=_lost(published, len(tallies), counted),
        doubled=sum(tally.doubled for tally in counted),
        rate=round(published / seconds),
        burst_rate=round(burst_messages / burst_seconds) if burst_seconds else 0,
        p50_ms=round(percentile(latencies_ms, 0.50), 3),
        p99_ms=round(percentile(latencies_ms, 0.99), 3),
        subscribers=len(tallies),
        peers=len(PEERS),
        seconds=round(seconds, 1),
        restarted=failover.old_owner,
        away_seconds=round(failover.away_seconds, 1),
        replicated_topic=REPLICATED,
        replicated_published=replicated.published,
        replicated_lost=_lost(replicated.published, len(tallies), copies),
        replicated_doubled=sum(tally.doubled for tally in copies),
        replicated_p50_ms=round(percentile(replicated.latencies_ms, 0.50), 3),
        failover_pause_ms=None if pause is None else round(pause * 1000),
        old_owner=failover.old_owner,
        new_owner=failover.new_owner,
        in_sync=sorted(in_sync),
    )


def _lost(published: int, subscribers: int, tallies: Sequence[Tally]) -> int:
    return published * subscribers - sum(tally.received - tally.doubled for tally in tallies)


def summary_lines(summary: Summary) -> list[str]:
    """The summary for people."""
    s = summary
    return [
        f"published  {s.published:,} readings to {s.peers} peers, each on disk before its acknowledgement",
        f"delivered  {s.delivered:,} to {s.subscribers} subscribers, in order",
        f"lost       {s.lost}",
        f"doubled    {s.doubled}",
        f"rate       {s.rate:,} messages/s over all; in a burst {s.burst_rate:,}/s by one publisher",
        f"latency    p50 {s.p50_ms:.2f} ms, p99 {s.p99_ms:.2f} ms, from publish to acknowledgement",
        f"restarted  {s.restarted}: kill -9 in the middle, away for {s.away_seconds:.1f} s",
        f"failover   {_failover(s)}",
        f"replicated {s.replicated_published:,} of these readings, each on all copies in sync when acknowledged "
        f"(p50 {s.replicated_p50_ms:.2f} ms): lost {s.replicated_lost}, doubled {s.replicated_doubled}",
    ]


def _failover(summary: Summary) -> str:
    s = summary
    if s.new_owner is None or s.failover_pause_ms is None:
        return f"{s.replicated_topic}: nobody took over from {s.old_owner}"
    return (
        f"{s.replicated_topic}: {s.old_owner} was its owner, {s.new_owner} took over; its publisher paused "
        f"for {s.failover_pause_ms / 1000:.2f} s; in sync at the end: {', '.join(s.in_sync) or 'nobody'}"
    )
