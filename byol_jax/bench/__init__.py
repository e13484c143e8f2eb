"""Measure a config on this machine: tables with medians and spread; see docs/benchmarks.md."""
