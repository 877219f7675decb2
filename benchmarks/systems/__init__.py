"""The systems that can be measured: how each is started, and how it is used from Python.

A system is two things. Its `System` runs in the measuring process and starts servers; its `Driver` runs in the
workers and publishes and subscribes with the system's best Python client, used well. A new one is a module here
and a name in `benchmarks.systems.names`.
"""
