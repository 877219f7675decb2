"""Hypothesis without deadlines: how long one example takes says more about the machine than about the code."""

from hypothesis import settings

settings.register_profile("pubsub", deadline=None)
settings.load_profile("pubsub")
