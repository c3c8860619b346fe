"""The histogram, against prometheus_client's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Peer

from tailrace.observe.histogram import Histogram

BOUNDS = (0.5, 1.0, 2.0, 10.0)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 3.5, 10.0, 11.0]), st.integers(1, 3))))
def test_buckets_are_those_of_the_library(values: list[tuple[float, int]]) -> None:
    registry = CollectorRegistry()
    own, peer = Histogram(BOUNDS), Peer("h", "help", buckets=BOUNDS, registry=registry)
    for value, times in values:
        own.observe(value, times)
        for _ in range(times):
            peer.observe(value)
    (family,) = registry.collect()
    expected = [(sample.labels["le"], sample.value) for sample in family.samples if sample.name == "h_bucket"]
    assert own.buckets() == expected
    assert own.count == registry.get_sample_value("h_count")
    assert own.total == registry.get_sample_value("h_sum")
