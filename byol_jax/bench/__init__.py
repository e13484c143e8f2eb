"""What this machine does with a config: tables with medians and spread; see docs/benchmarks.md."""
