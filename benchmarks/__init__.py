"""Measurements, each a ratio within one run: `python -m benchmarks [NAME...]` prints a table. Never a timed test."""
