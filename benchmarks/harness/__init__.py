"""What the benchmarks share: sides that take turns, the arithmetic of their ratios, servers, models and the report."""
