"""Tests of the benchmarks; all but a few are marked deep: ``pytest benchmarks``."""
