"""Which layout of the KV cache a load asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.kv_cache.layout import CELL_PADDING, Layout, LayoutPolicy

POLICY = LayoutPolicy(slots=8, max_cells=32_768, context=16_384)


def test_the_initial_layout_is_small_and_within_the_limit() -> None:
    assert POLICY.initial() == Layout(8, 512)
    assert LayoutPolicy(slots=8, max_cells=1024, context=1024).initial() == Layout(2, 512)
    assert LayoutPolicy(slots=8, max_cells=256, context=64).initial() == Layout(1, 256)


def test_always_shared_cells_start_with_the_initial_number_and_double() -> None:
    always_shared = LayoutPolicy(slots=8, max_cells=32_768, context=16_384, always_shared=True, initial_cells=16_384)
    assert always_shared.initial() == Layout(0, 16_384)
    assert always_shared.choose([2_000] * 6, always_shared.initial()) == always_shared.initial()
    assert always_shared.choose([2_000] * 10, always_shared.initial()) == Layout(0, 32_768)
    assert LayoutPolicy(
        slots=8, max_cells=4096, context=4096, always_shared=True, initial_cells=16_384
    ).initial() == Layout(0, 4096)


def test_many_contexts_get_a_partition_each_and_one_long_one_can_have_all_cells() -> None:
    assert POLICY.choose([1000] * 8, POLICY.initial()) == Layout(8, 1280)
    assert POLICY.choose([16_384], POLICY.initial()) == Layout(1, 16_384)


def test_a_layout_is_at_least_as_large_as_the_one_before_where_it_can_be() -> None:
    assert POLICY.choose([600], Layout(8, 512)) == Layout(8, 768)
    assert POLICY.choose([100, 100, 100], Layout(2, 4096)) == Layout(4, 4096)


def test_lengths_that_do_not_fit_in_partitions_share_all_cells() -> None:
    assert POLICY.choose([16_000, *[100] * 4], POLICY.initial()) == POLICY.full_shared
    assert POLICY.choose([16_000, 16_000, 700], POLICY.initial()) == POLICY.full_shared
    assert POLICY.choose([16_000, 16_000, 800], POLICY.initial()) is None


def test_a_fixed_layout_has_all_cells_shared() -> None:
    fixed = LayoutPolicy(slots=8, max_cells=32_768, context=16_384, fixed=True)
    assert fixed.initial() == fixed.choose([10], fixed.full_shared) == Layout(0, 32_768)


@given(
    st.integers(1, 16),
    st.integers(1, 40),
    st.lists(st.integers(1, 4096), min_size=1, max_size=16),
    st.integers(0, 16),
    st.integers(1, 40),
)
def test_a_layout_holds_what_it_was_chosen_for(
    slots: int, grains: int, lengths: list[int], streams: int, cells: int
) -> None:
    lengths = lengths[:slots]
    policy = LayoutPolicy(slots, grains * CELL_PADDING, 4096)
    now = Layout(min(streams, slots), cells * CELL_PADDING)
    layout = policy.choose(lengths, now)
    if layout is None:
        assert sum(lengths) > policy.max_cells
    elif layout.shared:
        assert sum(lengths) <= layout.cells == policy.max_cells
    else:
        assert layout.total <= policy.max_cells
        assert layout.partitions >= len(lengths)
        assert layout.cells >= max(lengths)
        assert layout.partitions <= slots
