"""The study: does selection help? `python benchmarks/study --folder DIR`."""
