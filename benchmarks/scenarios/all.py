"""Every scenario, in the order in which they are run."""

from benchmarks.readings import Scenario
from benchmarks.scenarios import (
    callers,
    groups,
    latency,
    leases,
    memory,
    pattern,
    replay,
    replay_by_time,
    retention,
    single,
    throughput,
)

SCENARIOS: dict[str, Scenario] = {
    module.scenario.name: module.scenario
    for module in (
        throughput,
        callers,
        single,
        latency,
        replay,
        replay_by_time,
        memory,
        pattern,
        groups,
        leases,
        retention,
    )
}
