"""The instrument: what this machine can do, and how much of it a topic reaches. `python -m benchmarks --help`."""
