"""Every scenario, in the order in which they are run."""

from benchmarks.readings import Scenario
from benchmarks.scenarios import (
    callers,
    catch_up,
    crowd,
    failover,
    fan_out,
    groups,
    growth,
    index,
    latency,
    leases,
    many_topics,
    memory,
    pattern,
    replay,
    replay_by_time,
    replication,
    retention,
    single,
    throughput,
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        *throughput.scenarios,
        fan_out.scenario,
        latency.scenario,
        replay.scenario,
        single.scenario,
        callers.scenario,
        many_topics.scenario,
        crowd.scenario,
        replication.cost,
        catch_up.scenario,
        replication.at_rest,
        *failover.scenarios,
        growth.scenario,
        index.scenario,
        replay_by_time.scenario,
        memory.scenario,
        pattern.scenario,
        groups.scenario,
        leases.scenario,
        retention.scenario,
    )
}
