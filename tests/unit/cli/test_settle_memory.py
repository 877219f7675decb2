"""What a server does to its memory once it has started."""

import subprocess
import sys

SCRIPT = """
import gc
from pubsub.cli.run import settle_memory

class Node: ...

cycle = Node(); cycle.itself = cycle
settle_memory()
before = gc.get_freeze_count()
del cycle
gc.collect()
later = Node(); later.itself = later
del later
print(before > 1000, gc.get_freeze_count() == before, gc.collect() > 0)
"""


def test_what_is_there_at_the_start_is_not_looked_at_again_and_later_cycles_are_collected() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "True", "True"]
