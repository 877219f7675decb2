"""Real processes under faults: a cluster, what goes wrong with it, a load whose history is recorded, and a checker."""
