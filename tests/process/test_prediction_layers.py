"""Drafting with a model's own prediction layer (MTP): replies stay the same, token for token, and take fewer steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.synthetic.shapes import SHAPES, Shape
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from drafted_replies import replies
from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.engine.backends.llama import LlamaBackend, memory_budget
from tailrace.engine.backends.llama.prediction_layers import has_prediction_layer
from tailrace.engine.load import load_llama
from tailrace.engine.speculation.drafter import Drafter
from tailrace.engine.speculation.prediction_layer import PredictionLayer
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.errors import ConfigurationError, ModelError
from tailrace.models.model_header import read_header
from tailrace.settings import Settings

#: Its layer is mostly right: see ``layer_scale``.
_PREDICTABLE = SHAPES["tiny-qwen35-mtp"]
#: Its layer is mostly wrong.
_RANDOM = msgspec.structs.replace(_PREDICTABLE, layer_scale=1.0)
_OTHERS = {
    "qwen35moe": msgspec.structs.replace(SHAPES["tiny-qwen35moe"], prediction_layers=1, layer_scale=0.05),
    "deepseek2": msgspec.structs.replace(SHAPES["tiny-deepseek2"], prediction_layers=1, layer_scale=0.05),
    "glm4moe": SHAPES["tiny-glm4moe-mtp"],
}
_SETTINGS = Settings(ctx=2048, parallel=4, threads=1, draft_tokens=4)


def load(shape: Shape, folder: Path, settings: Settings = _SETTINGS) -> LlamaBackend:
    path = folder / "model.gguf"
    write_model(path, "mtp", shape, byte_vocabulary(), "Q8_0")
    return load_llama(path, settings)


@pytest.fixture(params=["predictable", "random", "predictable, by snapshots"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaBackend]:
    by_snapshots = "snapshots" in request.param
    monkeypatch.setattr(memory_budget, "_SNAPSHOT_SLOWDOWN", 1e9 if by_snapshots else 0.0)
    backend = load(_RANDOM if request.param == "random" else _PREDICTABLE, tmp_path)
    assert (backend.rollback.snapshots > 0) == by_snapshots
    yield backend
    backend.close()


@pytest.mark.parametrize(
    ("together", "others"),
    [(False, ()), (True, ()), (True, (LookupDrafter(),))],
    ids=["alone", "together", "lookup too"],
)
def test_replies_are_the_same(
    backend: LlamaBackend, together: bool, others: tuple[Drafter, ...], request: pytest.FixtureRequest
) -> None:
    plain, without = replies(backend, None, together=together)
    assert backend.prediction_context is not None
    layer = PredictionLayer(backend.prediction_context)
    speculator = SimulatedSpeculator(layer, memory_bound, n_draft_max=3, others=others)
    drafted, counters = replies(backend, speculator, together=together)
    assert drafted == plain
    assert counters.draft_tokens > 0
    if "predictable" in request.node.callspec.id:
        # Chance would give one in 270.
        assert counters.accepted_tokens > 0.5 * counters.draft_tokens
        assert counters.steps < 0.75 * without.steps


@pytest.mark.parametrize("architecture", _OTHERS)
def test_layers_of_other_architectures_draft(architecture: str, tmp_path: Path) -> None:
    backend = load(_OTHERS[architecture], tmp_path)
    try:
        assert backend.info.architecture == architecture
        assert backend.prediction_context is not None
        plain, _ = replies(backend, None, together=True)
        speculator = SimulatedSpeculator(PredictionLayer(backend.prediction_context), memory_bound, n_draft_max=3)
        drafted, counters = replies(backend, speculator, together=True)
    finally:
        backend.close()
    assert drafted == plain
    assert counters.accepted_tokens > 0.5 * counters.draft_tokens > 20


def test_a_prompt_from_the_prefix_cache_has_drafts_after_its_first_tokens(tmp_path: Path) -> None:
    backend = load(_OTHERS["glm4moe"], tmp_path)
    prompt = [3 + 7 * place % 200 for place in range(50)]
    try:
        assert backend.prediction_context is not None
        plain, _ = replies(backend, None, together=False, prompts=[prompt, prompt])
        speculator = SimulatedSpeculator(PredictionLayer(backend.prediction_context), memory_bound, n_draft_max=3)
        drafted, counters = replies(backend, speculator, together=False, prompts=[prompt, prompt])
    finally:
        backend.close()
    assert counters.prefix_hits > 0
    assert drafted == plain
    assert counters.accepted_tokens > 0.5 * counters.draft_tokens > 20


@pytest.mark.parametrize("architecture", ["glm4moe", "deepseek2"])
def test_a_layer_is_used_where_all_is_there_that_llama_cpp_asserts(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, "mtp", _OTHERS[architecture], byte_vocabulary(), "Q8_0")
    header = read_header(path)
    assert has_prediction_layer(header.values, header.tensors)
    for missing in ("blk.2.nextn.hnorm.weight", "blk.2.ffn_gate_inp.weight", "blk.0.attn_norm.weight"):
        left = [tensor for tensor in header.tensors if tensor.name != missing]
        assert len(left) < len(header.tensors)
        assert not has_prediction_layer(header.values, left)
    for key, value in (("nextn_predict_layers", 2), ("block_count", "three")):
        assert not has_prediction_layer(header.values | {f"{architecture}.{key}": value}, header.tensors)
    if architecture == "deepseek2":
        assert not has_prediction_layer(header.values | {"deepseek2.attention.key_length_mla": 0}, header.tensors)
    path.write_bytes(path.read_bytes().replace(b"blk.2.ffn_gate_inp.weight", b"blk.2.ffn_gate_inp.weighx"))
    with pytest.raises(ModelError, match="can't load"):
        load_llama(path, _SETTINGS)


def test_hidden_states_are_given_while_they_are_wanted_and_change_no_logits(tmp_path: Path) -> None:
    backend = load(_PREDICTABLE, tmp_path)
    try:
        context = backend.prediction_context
        assert context is not None
        given, logits = [], []
        for wanted in (True, False, True):
            context.collects = wanted
            logits.append(backend.decode([3, 4, 5], [0, 1, 2], [0] * 3, [2]).copy())
            given.append(context.hidden.copy())
            backend.reset()
    finally:
        backend.close()
    assert [len(rows) for rows in given] == [3, 0, 3]
    assert (given[0] == given[2]).all()
    assert all((each == logits[0]).all() for each in logits)


def test_drafts_go_on_behind_more_tokens_than_the_layer_keeps(tmp_path: Path) -> None:
    backend = load(_PREDICTABLE, tmp_path)
    try:
        context = backend.prediction_context
        assert context is not None
        context.cells = 256
        prompts = [[3 + 7 * place % 200 for place in range(300)]]
        plain, _ = replies(backend, None, together=False, prompts=prompts, max_tokens=700)
        speculator = SimulatedSpeculator(PredictionLayer(context), memory_bound, n_draft_max=3)
        drafted, counters = replies(backend, speculator, together=False, prompts=prompts, max_tokens=700)
    finally:
        backend.close()
    assert drafted == plain
    assert counters.accepted_tokens > 0.5 * counters.draft_tokens > 150


def test_without_the_setting_the_layer_is_not_loaded(tmp_path: Path) -> None:
    backend = load(_PREDICTABLE, tmp_path, msgspec.structs.replace(_SETTINGS, speculate="lookup"))
    try:
        assert backend.prediction_context is None
        assert not [each for each in backend.assignments if "nextn" in each.tensor.name]
    finally:
        backend.close()


def test_a_model_without_the_layer_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no prediction layer that can draft: set --speculate auto"):
        load(SHAPES["tiny-qwen35"], tmp_path, msgspec.structs.replace(_SETTINGS, speculate="mtp"))
