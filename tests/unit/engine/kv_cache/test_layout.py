"""Which layout of the KV cache a load asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.kv_cache.layout import CELL_PADDING, Layout, LayoutPolicy

POLICY = LayoutPolicy(slots=8, max_cells=32_768, context=16_384)


def test_it_starts_small_and_within_the_limit() -> None:
    assert POLICY.initial() == Layout(8, 512)
    assert LayoutPolicy(slots=8, max_cells=1024, context=1024).initial() == Layout(2, 512)
    assert LayoutPolicy(slots=8, max_cells=256, context=64).initial() == Layout(1, 256)


def test_a_pool_has_room_for_a_few_conversations_from_the_start_and_grows_beyond() -> None:
    always_shared = LayoutPolicy(slots=8, max_cells=32_768, context=16_384, always_shared=True, initial_cells=16_384)
    assert always_shared.initial() == Layout(0, 16_384)
    assert always_shared.choose([2_000] * 6, always_shared.initial()) == always_shared.initial()
    assert always_shared.choose([2_000] * 10, always_shared.initial()) == Layout(0, 32_768)
    assert LayoutPolicy(
        slots=8, max_cells=4096, context=4096, always_shared=True, initial_cells=16_384
    ).initial() == Layout(0, 4096)


def test_many_contexts_get_a_stream_each_and_one_long_one_can_have_everything() -> None:
    assert POLICY.choose([1000] * 8, POLICY.initial()) == Layout(8, 1280)
    assert POLICY.choose([16_384], POLICY.initial()) == Layout(1, 16_384)


def test_what_there_is_stays_where_it_can() -> None:
    assert POLICY.choose([600], Layout(8, 512)) == Layout(8, 768)
    assert POLICY.choose([100, 100, 100], Layout(2, 4096)) == Layout(4, 4096)


def test_what_does_not_fit_as_streams_shares_the_pool() -> None:
    assert POLICY.choose([16_000, *[100] * 4], POLICY.initial()) == POLICY.full_shared
    assert POLICY.choose([16_000, 16_000, 700], POLICY.initial()) == POLICY.full_shared
    assert POLICY.choose([16_000, 16_000, 800], POLICY.initial()) is None


def test_a_model_that_allows_no_other_layout_keeps_the_pool() -> None:
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
