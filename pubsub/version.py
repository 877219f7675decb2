"""The one place that holds the version: the build, `pubsub --version` and the hello frame all read it here."""

__version__ = "0.1.0"
