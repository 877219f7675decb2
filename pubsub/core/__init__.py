"""Decisions only: no I/O, no clock, no randomness. Records and times come in as arguments, values go out."""
