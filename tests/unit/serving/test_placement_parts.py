"""A model's parts for the planner, from headers that are written here."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_files import STRING, UINT32, pair, text
from tailrace.errors import ModelError
from tailrace.machine.placement.parts import NO_PART, ModelParts, Part
from tailrace.models.gguf_file import Tensor
from tailrace.models.kv_shape import F16_CACHE, CacheTypes
from tailrace.models.model_header import ModelFacts, ModelHeader, read_header
from tailrace.serving.placement_parts import placement_parts

F32, F16, Q8_0 = 0, 1, 8

#: A layer of a dense model: 2 heads of 64 numbers, and one head of keys and values.
DENSE = {
    "attn_norm.weight": (128,),
    "attn_q.weight": (128, 128),
    "attn_k.weight": (128, 64),
    "attn_v.weight": (128, 64),
    "attn_output.weight": (128, 128),
    "ffn_norm.weight": (128,),
    "ffn_gate.weight": (128, 512),
    "ffn_up.weight": (128, 512),
    "ffn_down.weight": (512, 128),
}
#: What a layer with 8 experts, one shared one and a router has instead of the dense feed-forward part.
EXPERTS = {
    "ffn_gate_inp.weight": (128, 8),
    "ffn_gate_exps.weight": (128, 32, 8),
    "ffn_up_exps.weight": (128, 32, 8),
    "ffn_down_exps.weight": (32, 128, 8),
    "ffn_gate_shexp.weight": (128, 32),
}
ENDS = {"token_embd.weight": (128, 1000), "output_norm.weight": (128,)}


def parts_of(
    folder: Path,
    tensors: Mapping[str, tuple[int, ...]],
    *,
    ggml_type: int = F16,
    types: CacheTypes = F16_CACHE,
    **values: int,
) -> ModelParts:
    """The parts of a file with these tensors; ``values``: of the architecture's keys, with ``__`` for a point."""
    pairs = [pair("general.architecture", STRING, text("llama"))]
    pairs += [
        pair(f"llama.{key.replace('__', '.')}", UINT32, struct.pack("<I", value)) for key, value in values.items()
    ]
    described = b"".join(
        text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, F32 if len(sizes) == 1 else ggml_type, 0)
        for name, sizes in tensors.items()
    )
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + described
    path = folder / "model.gguf"
    # The weights themselves aren't read.
    path.write_bytes(header + bytes(64))
    return placement_parts(read_header(path), types)


def layer(number: int, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"blk.{number}.{name}": sizes for name, sizes in tensors.items()}


def test_a_dense_model_with_a_tied_output(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, {**ENDS, **layer(0, DENSE), **layer(1, DENSE)})
    attention = 2 * 128 * 128 + 2 * 128 * 64
    assert len(parts.layers) == 2
    assert parts.layers[0] == parts.layers[1]
    assert parts.layers[0].attention == Part(bytes=2 * attention + 4 * 128, weights=attention, largest=2 * 128 * 128)
    assert parts.layers[0].feed_forward == Part(
        bytes=2 * 3 * 128 * 512 + 4 * 128, weights=3 * 128 * 512, largest=2 * 128 * 512
    )
    assert parts.layers[0].experts == NO_PART
    assert parts.layers[0].kv_bytes == 2 * (64 + 64)
    assert parts.embedding == Part(bytes=2 * 128 * 1000, weights=128 * 1000, largest=2 * 128 * 1000)
    # The embedding's copy is the output matrix.
    assert parts.output == Part(bytes=2 * 128 * 1000 + 4 * 128, weights=128 * 1000, largest=2 * 128 * 1000)
    assert (parts.width, parts.vocabulary, parts.experts) == (128, 1000, 0)


def test_an_output_matrix_of_its_own_is_no_part_of_the_embedding(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, {**ENDS, "output.weight": (128, 1000), **layer(0, DENSE)})
    assert parts.embedding.bytes == 2 * 128 * 1000
    assert parts.output.bytes == 2 * 128 * 1000 + 4 * 128


def test_routed_experts_are_apart_from_shared_ones_and_the_router(tmp_path: Path) -> None:
    attention = {name: sizes for name, sizes in DENSE.items() if name.startswith("attn_")}
    parts = parts_of(
        tmp_path,
        {**ENDS, **layer(0, DENSE), **layer(1, attention | EXPERTS)},
        ggml_type=Q8_0,
        expert_count=8,
        expert_used_count=2,
    )
    assert parts.layers[0].experts == NO_PART
    assert parts.layers[1].experts == Part(
        bytes=3 * 128 * 32 * 8 * 34 // 32, weights=3 * 128 * 32 * 8, largest=128 * 32 * 8 * 34 // 32
    )
    assert parts.layers[1].feed_forward.weights == 128 * 8 + 128 * 32
    assert parts.expert_part == 0.25


def test_a_quantised_cache_is_smaller(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, {**ENDS, **layer(0, DENSE)}, types=CacheTypes("q8_0", "q4_0"))
    assert parts.layers[0].kv_bytes == 2 * 34 + 2 * 18


@pytest.mark.parametrize(
    ("tensors", "kv_bytes"),
    [
        ({"attn_qkv.weight": (128, 128 + 2 * 64)}, 2 * (64 + 64)),
        ({"attn_kv_a_mqa.weight": (128, 96)}, 2 * 96),
        ({"attn_q.weight": (128, 128), "attn_k.weight": (128, 64)}, 2 * (64 + 64)),
        ({"attn_q.weight": (128, 128)}, 0),
    ],
    ids=["one matrix", "compressed", "keys that are values, too", "another layer's cache"],
)
def test_the_cache_of_each_kind_of_attention(
    tmp_path: Path, tensors: Mapping[str, tuple[int, ...]], kv_bytes: int
) -> None:
    parts = parts_of(tmp_path, {**ENDS, **layer(0, tensors)}, attention__head_count=2, embedding_length=128)
    assert parts.layers[0].kv_bytes == kv_bytes


def test_a_recurrent_layer_has_a_state_and_no_cache(tmp_path: Path) -> None:
    parts = parts_of(
        tmp_path,
        {**ENDS, **layer(0, {"ssm_in.weight": (128, 512)}), **layer(1, DENSE)},
        ssm__inner_size=256,
        ssm__state_size=16,
        ssm__conv_kernel=4,
    )
    assert (parts.layers[0].kv_bytes, parts.layers[0].state_bytes) == (0, 4 * 256 * (16 + 3))
    assert (parts.layers[1].kv_bytes > 0, parts.layers[1].state_bytes) == (True, 0)


def test_a_layer_without_tensors_keeps_the_others_numbers(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, {**ENDS, **layer(2, DENSE)})
    assert [each.attention.bytes > 0 for each in parts.layers] == [False, False, True]


@pytest.mark.parametrize(
    ("tensors", "ggml_type", "message"),
    [
        ({"token_embd.weight": (128, 1000)}, F16, "no layers"),
        ({"blk.600.attn_q.weight": (128, 128)}, F16, "has 601 layers"),
        ({"blk.0.attn_q.weight": (128, 128)}, 4711, "a format that isn't known: 4711"),
    ],
)
def test_a_file_that_no_plan_can_be_made_for(
    tmp_path: Path, tensors: Mapping[str, tuple[int, ...]], ggml_type: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        parts_of(tmp_path, tensors, ggml_type=ggml_type)


NAMES = st.sampled_from(
    [*ENDS, "output.weight", "blk.0", "blk.999999999999.ffn_up.weight", "blk.-1.attn_k.weight", "blk..", ""]
    + [f"blk.{number}.{name}" for number in (0, 1, 511, 512) for name in [*DENSE, *EXPERTS, "attn_qkv.weight", "ssm_a"]]
)
SIZES = st.lists(st.sampled_from([0, 1, 31, 64, 2**32, 2**64 - 1]), min_size=1, max_size=4).map(tuple)
KEYS = ["expert_count", "expert_used_count", "attention.head_count", "attention.key_length", "ssm.state_size"]


@given(
    tensors=st.lists(st.tuples(NAMES, st.sampled_from([F16, Q8_0, 12, 4711]), SIZES), max_size=12),
    values=st.dictionaries(
        st.sampled_from(KEYS), st.sampled_from([-1, 0, 1, 8, 2**64 - 1, True, False, "8", 0.5, float("nan")])
    ),
)
def test_any_header_gives_parts_or_a_model_error(
    tensors: list[tuple[str, int, tuple[int, ...]]], values: dict[str, int | bool | str | float]
) -> None:
    facts = ModelFacts(
        architecture="a", name=None, quantisation=None, parameters=0, context=None, chat_template=False, kv=None
    )
    header = ModelHeader(
        facts=facts,
        values={f"a.{key}": value for key, value in values.items()},
        tensors=tuple(Tensor(name, kind, sizes) for name, kind, sizes in tensors),
    )
    try:
        parts = placement_parts(header, F16_CACHE)
    except ModelError:
        return
    assert 1 <= len(parts.layers) <= 512
    assert 0.0 <= parts.expert_part <= 1.0
    for each in parts.layers:
        sizes = (each.attention.bytes, each.feed_forward.bytes, each.experts.bytes, each.kv_bytes, each.state_bytes)
        assert min(sizes) >= 0
