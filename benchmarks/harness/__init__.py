"""The parts that benchmarks share: interleaved runs, statistics, servers, side processes and the report."""
