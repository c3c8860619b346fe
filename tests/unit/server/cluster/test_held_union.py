"""The prefixes of several engines together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.cluster_protocol.prefix_chain import pack_hashes, unpack_hashes
from tailrace.cluster_protocol.state import TIERS, HeldBlocks
from tailrace.protocol import PrefixReport
from tailrace.server.cluster.held_union import HeldUnion

BLOCKS = st.integers(1, 6)
#: An engine, and what it holds from now on: blocks with the numbers of their tiers. None: it has ended.
EVENTS = st.lists(st.tuples(st.integers(0, 2), st.none() | st.dictionaries(BLOCKS, st.integers(0, 2))), max_size=20)


def report(before: dict[int, int], now: dict[int, int]) -> PrefixReport:
    new = {block: tier for block, tier in now.items() if before.get(block) != tier}
    held = tuple(pack_hashes([block for block, tier in new.items() if tier == number]) for number in range(len(TIERS)))
    return PrefixReport(held=held, removed=pack_hashes([block for block in before if block not in now]))


def flat(held: list[HeldBlocks]) -> dict[int, str]:
    return {block: each.tier for each in held for block in unpack_hashes(each.hashes)}


@given(EVENTS, st.integers(1, 4))
def test_each_block_has_the_fastest_tier_of_all_engines(
    events: list[tuple[int, dict[int, int] | None]], every: int
) -> None:
    union, engines, followed = HeldUnion(), dict[int, dict[int, int]](), dict[int, str]()
    for number, (engine, now) in enumerate(events):
        if now is None:
            union.drop(engine)
            engines.pop(engine, None)
        else:
            union.apply(engine, report(engines.get(engine, {}), now))
            engines[engine] = now
        if number % every and number < len(events) - 1:
            continue
        held, removed = union.take_changes()
        for block in unpack_hashes(removed):
            del followed[block]
        followed.update(flat(held))
        best: dict[int, int] = {}
        for own in engines.values():
            for block, tier in own.items():
                best[block] = min(tier, best.get(block, tier))
        assert followed == flat(union.published()) == {block: TIERS[tier] for block, tier in best.items()}
        assert union.take_changes() == ([], b"")
