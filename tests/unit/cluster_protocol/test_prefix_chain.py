"""The chain of hashes that names a text's prefixes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS, PrefixChain, chain_of, pack_hashes, unpack_hashes

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=5 * BLOCK_TOKENS)


@given(TOKENS, TOKENS, TOKENS)
def test_two_texts_share_as_many_hashes_as_whole_blocks(start: list[int], one: list[int], other: list[int]) -> None:
    first, second = start + one, start + other
    common = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    common = min(len(first), len(second)) if common is None else common
    chains = chain_of("m", first), chain_of("m", second)
    shared = [a == b for a, b in zip(*chains, strict=False)]
    assert shared == [True] * (common // BLOCK_TOKENS) + [False] * (len(shared) - common // BLOCK_TOKENS)


@given(TOKENS, st.lists(st.integers(0, 200), max_size=6))
def test_a_chain_that_grows_is_the_same_as_one_of_the_whole_text(tokens: list[int], steps: list[int]) -> None:
    chain, length = PrefixChain("m"), 0
    for step in steps:
        length += step
        chain.extend(tokens[:length])
    chain.extend(tokens)
    assert chain.hashes == chain_of("m", tokens)


def test_models_have_nothing_in_common() -> None:
    tokens = list(range(10 * BLOCK_TOKENS))
    assert not set(chain_of("one", tokens)) & set(chain_of("other", tokens))


def test_every_process_has_the_same_hashes() -> None:
    code = "from tailrace.cluster_protocol.prefix_chain import chain_of; print(chain_of('m', list(range(200))))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(chain_of("m", list(range(200))))


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_packed_hashes_come_back(hashes: list[int]) -> None:
    assert unpack_hashes(pack_hashes(hashes)) == hashes


def test_a_broken_package_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        unpack_hashes(b"123456789")
