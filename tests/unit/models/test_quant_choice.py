"""Which files of a repository are taken: the named quantisation, or the first of a fixed order that fits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import ModelError
from tailrace.models.quant_choice import ORDER, FileSize, QuantFiles, choose_quant, quant_of, quant_sets

GB = 1_000_000_000


def _files(**gigabytes: float) -> list[FileSize]:
    return [FileSize(f"tiny-7b-{quant}.gguf", int(size * GB)) for quant, size in gigabytes.items()]


def _paths(found: QuantFiles) -> list[str]:
    return [file.path for file in found.files]


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q5_k_m-00001-of-00002.gguf", "Q5_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
        ("gemma-4-IQ4_NL.gguf", "IQ4_NL"),
        ("llama-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("phi.fp16.gguf", "FP16"),
        ("BF16/DeepSeek-00001-of-00030.gguf", "BF16"),
        ("Q2_K/DeepSeek-Q3_K_S-00001-of-00030.gguf", "Q3_K_S"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("bitnet-TQ1_0.gguf", "TQ1_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("f16-Q8_0-mixed.gguf", "Q8_0"),
        ("gemma-3-4b-it-q4_0.gguf", "Q4_0"),
        ("model.gguf", None),
        ("Q4.gguf", None),
        ("xQ4_K_M2.gguf", None),
    ],
)
def test_the_quantisation_is_read_from_names(path: str, quant: str | None) -> None:
    assert quant_of(path) == quant


def test_q4_k_m_comes_first() -> None:
    found = choose_quant(_files(Q8_0=8, Q4_K_M=4.5, Q2_K=3, F16=15), memory=None)
    assert found.quant == "Q4_K_M"


@pytest.mark.parametrize(
    ("memory", "quant"),
    [(100, "Q4_K_M"), (9.6, "Q4_K_M"), (8.9, "Q4_0"), (8.0, "Q3_K_M"), (7.0, "Q2_K"), (1, "Q2_K")],
)
def test_a_smaller_one_is_taken_where_memory_is_short(memory: float, quant: str) -> None:
    """A tenth and 500 MB are for what a model takes beside its file. The smallest is returned where none fits."""
    files = _files(F16=30, Q8_0=16, Q4_K_M=8.2, Q4_0=7.6, Q3_K_M=6.8, Q2_K=5.5)
    found = choose_quant(files, memory=int(memory * GB))
    assert found.quant == quant
    assert found.fits(int(memory * GB)) == (memory != 1)


@pytest.mark.parametrize(
    ("there", "quant"),
    [
        (("Q8_0", "Q3_K_M", "F16"), "Q8_0"),
        (("Q6_K", "Q5_K_M", "Q3_K_M"), "Q5_K_M"),
        (("F16", "Q2_K"), "Q2_K"),
        (("F16", "F32"), "F16"),
        (("Q4_K_S", "IQ4_XS", "Q5_K_M"), "Q4_K_S"),
    ],
)
def test_the_next_one_of_the_order_is_taken(there: tuple[str, ...], quant: str) -> None:
    assert choose_quant([FileSize(f"a-{each}.gguf", GB) for each in there]).quant == quant


def test_other_files_are_never_chosen() -> None:
    others = ["mmproj-F16.gguf", "mmproj-tiny-Q4_K_M.gguf", "tiny-Q4_K_M.mmproj.gguf", "imatrix.gguf", "README.md"]
    others += ["tiny.imatrix.gguf", "ggml-vocab-llama.gguf", ".tiny-Q4_K_M.gguf", ".cache/tiny-Q4_K_M.gguf"]
    others += ["tiny-Q4_K_M.gguf.part", "tiny-lora-Q4_K_M.gguf"]
    found = choose_quant([FileSize(path, 1) for path in others] + [FileSize("tiny-F16.gguf", 9)])
    assert _paths(found) == ["tiny-F16.gguf"]
    with pytest.raises(ModelError, match=r"no \.gguf file of a model"):
        choose_quant([FileSize(path, 1) for path in others[:-1]])
    with pytest.raises(ModelError, match="it has no model file"):
        choose_quant([FileSize("mmproj-F16.gguf", 1), FileSize("tiny-F16.gguf", 9)], file="mmproj-F16.gguf")


def test_a_merged_model_that_is_called_lora_is_taken_where_it_is_alone() -> None:
    assert choose_quant([FileSize("my-lora-Q4_K_M.gguf", 1)]).quant == "Q4_K_M"


@pytest.mark.parametrize(
    ("quant", "path"),
    [
        ("q8_0", "a-Q8_0.gguf"),
        ("Q4_K_XL", "a-UD-Q4_K_XL.gguf"),
        ("ud-q4_k_xl", "a-UD-Q4_K_XL.gguf"),
        ("qat", "a-it-qat.gguf"),
        ("latest", "a-Q4_K_M.gguf"),
    ],
)
def test_a_named_quantisation_is_found_in_any_case(quant: str, path: str) -> None:
    names = ["a-Q4_K_M.gguf", "a-Q8_0.gguf", "a-UD-Q4_K_XL.gguf", "a-it-qat.gguf"]
    assert _paths(choose_quant([FileSize(name, 1) for name in names], quant=quant)) == [path]


def test_a_named_one_is_taken_even_if_it_does_not_fit() -> None:
    found = choose_quant(_files(Q8_0=8, Q2_K=1), quant="Q8_0", memory=2 * GB)
    assert found.quant == "Q8_0"
    assert not found.fits(2 * GB)


def test_a_missing_one_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"no Q6_K; it has Q4_K_M \(4\.5 GB\), Q8_0 \(8\.0 GB\)"):
        choose_quant(_files(Q8_0=8, Q4_K_M=4.5), quant="Q6_K")


def test_shards_are_one_model() -> None:
    shards = [FileSize(f"Q8_0/big-Q8_0-{number:05}-of-00003.gguf", 3 * GB) for number in (1, 2, 3)]
    files = [*shards, FileSize("big-Q4_K_M.gguf", 6 * GB)]
    random.Random(1).shuffle(files)
    found = choose_quant(files, quant="Q8_0")
    assert _paths(found) == [shard.path for shard in shards]
    assert found.bytes == 9 * GB
    assert choose_quant(files, file="Q8_0/big-Q8_0-00002-of-00003.gguf") == found
    assert choose_quant(files, file="BIG-q8_0-00002-of-00003.GGUF") == found


def test_an_incomplete_set_is_no_choice_and_is_named() -> None:
    files = [FileSize("big-Q4_K_M-00001-of-00003.gguf", 1), FileSize("big-Q8_0.gguf", 2)]
    assert choose_quant(files).quant == "Q8_0"
    with pytest.raises(ModelError, match=r"has 3 shards, and shard 2, 3 is missing"):
        choose_quant(files, quant="Q4_K_M")
    with pytest.raises(ModelError, match="shard 2, 3 is missing"):
        choose_quant(files[:1])


def test_a_huge_count_of_shards_costs_nothing() -> None:
    files = [FileSize(f"m{number}-00001-of-99999.gguf", 1) for number in range(10_000)]
    sets = quant_sets(files)
    assert len(sets) == 10_000
    assert sets[0].missing[:2] == (2, 3)
    assert len(sets[0].missing) == 40


def test_the_shortest_name_is_taken_of_several_models() -> None:
    names = ["tiny-instruct-Q4_K_M.gguf", "tiny-Q4_K_M.gguf", "tiny-b-Q4_K_M.gguf"]
    assert _paths(choose_quant([FileSize(name, 1) for name in names])) == ["tiny-Q4_K_M.gguf"]
    assert _paths(choose_quant([FileSize(name, 1) for name in names], quant="q4_k_m")) == ["tiny-Q4_K_M.gguf"]


@given(
    st.dictionaries(st.sampled_from(ORDER), st.integers(0, 100 * GB), min_size=1),
    st.integers(0, 120 * GB),
    st.randoms(use_true_random=False),
)
def test_the_choice_is_the_first_of_the_order_that_fits(
    sizes: dict[str, int], memory: int, chance: random.Random
) -> None:
    files = [FileSize(f"m-{quant}.gguf", size) for quant, size in sizes.items()]
    chance.shuffle(files)
    found = choose_quant(files, memory=memory)
    fitting = [quant for quant in ORDER if quant in sizes and sizes[quant] * 11 // 10 + 500_000_000 <= memory]
    if found.fits(memory):
        assert found.quant == fitting[0]
    else:
        assert found.bytes == min(sizes.values())
