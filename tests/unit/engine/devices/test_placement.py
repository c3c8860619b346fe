"""The device of each tensor, by the planner and by rules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tailrace.engine.devices import name_patterns
from tailrace.engine.devices.placement import PlannedModel, place
from tailrace.engine.devices.rules import PlacementRules, read_rules
from tailrace.errors import ConfigurationError
from tailrace.machine.placement.assumed import device_of
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU
from tailrace.models.gguf_file import Tensor
from tailrace.models.kv_shape import F16_CACHE
from tailrace.models.model_header import ModelFacts, ModelHeader, Value
from tailrace.serving.placement_parts import EMBEDDING
from tailrace.settings import resolve

LAYERS, WIDTH = 10, 1024
GB = 10**9
F16 = 1
_PARTS = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, 256), "attn_v": (WIDTH, 256), "attn_norm": (WIDTH,)}
_DENSE = {"ffn_up": (WIDTH, 4 * WIDTH), "ffn_down": (4 * WIDTH, WIDTH)}
_EXPERTS = {"ffn_up_exps": (WIDTH, WIDTH, 16), "ffn_down_exps": (WIDTH, WIDTH, 16), "ffn_gate_inp": (WIDTH, 16)}


def header(layers: int = LAYERS, *, tied: bool = False, experts: bool = True) -> ModelHeader:
    parts: dict[str, tuple[int, ...]] = {**_PARTS, **(_EXPERTS if experts else _DENSE)}
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (WIDTH, 32000), "output_norm.weight": (WIDTH,)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{part}.weight": sizes for part, sizes in parts.items()}
    if not tied:
        shapes["output.weight"] = (WIDTH, 32000)
    facts = ModelFacts(
        architecture="a", name=None, quantisation=None, parameters=0, context=4096, chat_template=False, kv=None
    )
    values: dict[str, Value] = {"a.block_count": layers}
    if experts:
        values |= {"a.expert_count": 16, "a.expert_used_count": 2}
    return ModelHeader(
        facts=facts,
        values=values,
        tensors=tuple(Tensor(name, F16, sizes) for name, sizes in shapes.items()),
    )


def machine(*free: int) -> list[Device]:
    """This machine, and workers with GPUs, with so many free bytes."""
    fast: dict[str, float] = {"layer_seconds": 1e-6, "link_seconds": 1e-6, "read_seconds": 1e-7, "write_seconds": 1e-7}
    far = [device_of(f"w{number}:1", "gpu", each, **fast) for number, each in enumerate(free[1:], 1)]
    return [device_of("local", "cpu", free[0]), *far]


def placed(rules: dict[str, Any] | None = None, *free: int, **options: Any) -> PlannedModel:
    usual: dict[str, Any] = {"local": True, "gpu_layers": -1}
    model = options.pop("model", header())
    devices = machine(*(free or (100 * GB, 100 * GB, 100 * GB)))
    work = options.pop("work", Work(cells=4096))
    return place(model, devices, read_rules(rules), work, cache_types=F16_CACHE, **{**usual, **options})


def test_the_planner_decides_without_rules() -> None:
    found = placed(None, 100 * GB, 100 * GB)
    assert found.placement.homes == found.placement.feeds == (1,) * LAYERS
    slow = machine(100 * GB, 100 * GB)
    slow[1] = replace(slow[1], bandwidth=1e9, arithmetic=1e9)
    usual: dict[str, Any] = {"cache_types": F16_CACHE, "gpu_layers": -1}
    assert place(header(), slow, PlacementRules(), Work(cells=4096), local=True, **usual).used == []
    assert place(header(), slow, PlacementRules(), Work(cells=4096), local=False, **usual).used == [1]


def test_experts_are_on_the_cpu_where_a_device_has_no_memory_for_all() -> None:
    found = placed(None, 100 * GB, 700_000_000)
    assert found.placement.layers_on(1) > found.placement.feeds_on(1) > 0
    for layer in range(LAYERS):
        assert found.tensors[f"blk.{layer}.attn_q.weight"] == found.placement.homes[layer]
        assert found.tensors[f"blk.{layer}.ffn_gate_inp.weight"] == found.placement.homes[layer]
        assert found.tensors[f"blk.{layer}.ffn_up_exps.weight"] == found.placement.feeds[layer]


@pytest.mark.parametrize("wanted", [0, 3, 10, 99])
def test_gpu_layers_are_the_last_ones(wanted: int) -> None:
    found = placed(None, 100 * GB, 100 * GB, gpu_layers=wanted)
    on_devices = min(wanted, LAYERS)
    assert found.placement.homes == found.placement.feeds == (0,) * (LAYERS - on_devices) + (1,) * on_devices


def test_devices_get_fewer_layers_than_gpu_layers_where_memory_is_short() -> None:
    assert 0 < placed(None, 100 * GB, GB // 2, gpu_layers=10).placement.layers_on(1) < LAYERS


def test_the_embedding_stays_here_and_the_output_goes_with_the_last_layer() -> None:
    found = placed(None, 100 * GB, 100 * GB, local=False)
    assert found.tensors[EMBEDDING] == 0
    assert found.tensors["output.weight"] == found.tensors["output_norm.weight"] == found.placement.output == 1
    tied = placed(None, 100 * GB, 100 * GB, local=False, model=header(tied=True))
    assert tied.tensors[EMBEDDING] == 1


@pytest.mark.parametrize("rules", [{"output": "w2:1"}, {"tensors": {"token_embd": "w2:1"}}])
def test_an_output_that_is_the_embedding_has_the_last_layer_with_it(rules: dict[str, Any]) -> None:
    found = placed(rules, model=header(tied=True))
    assert (found.placement.output, found.placement.homes[-1], found.tensors[EMBEDDING]) == (2, 2, 2)
    found = placed(rules, model=header(tied=True), gpu_layers=3)
    assert found.placement.homes == (0,) * (LAYERS - 3) + (2,) * 3
    assert placed({"output": "w2:1"}).placement.output == 2
    with pytest.raises(ConfigurationError, match="can only be on local or w1:1, where its last layer is"):
        placed({**rules, "layers": {str(LAYERS - 1): "w1:1"}}, model=header(tied=True))
    with pytest.raises(ConfigurationError, match="can only be on local, where its last layer is"):
        placed({**rules, "layers": {f"0-{LAYERS - 1}": "local"}}, model=header(tied=True))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 2 * GB), min_size=2, max_size=4),
    st.integers(1, 40),
    st.integers(-1, 45),
    st.booleans(),
    st.booleans(),
)
def test_no_device_gets_more_than_it_has(
    free: list[int], layers: int, gpu_layers: int, local: bool, experts: bool
) -> None:
    model = header(layers, experts=experts)
    found = placed(None, *free, model=model, local=local, gpu_layers=gpu_layers)
    assert len(found.placement.homes) == layers
    assert list(found.placement.homes) == sorted(found.placement.homes), "llama.cpp keeps a device's layers together"
    for device, (weights, cache) in enumerate(found.weights_and_cache()):
        if device != CPU:
            assert weights + cache <= found.prediction.memory[device] <= found.devices[device].free
    assert found.missing == max(0, found.prediction.memory[CPU] - found.devices[CPU].free)


def test_rules_name_layers_and_tensors() -> None:
    found = placed({"layers": {"0-3": "local", "4-6": "w1:1", "7-9": "w2:1"}, "tensors": {"_exps": "local"}})
    assert found.placement.homes == (0,) * 4 + (1,) * 3 + (2,) * 3
    assert {found.tensors[f"blk.{layer}.ffn_up_exps.weight"] for layer in range(LAYERS)} == {0}
    assert found.tensors["blk.5.attn_q.weight"] == 1
    apart = placed({"layers": {"0-9": "w1:1"}, "output": "local"})
    assert apart.tensors["output.weight"] == 0


def test_the_planner_decides_what_rules_leave() -> None:
    found = placed({"layers": {"9": "w2:1"}}, 100 * GB, 100 * GB, 100 * GB)
    assert found.placement.homes[-1] == 2
    assert found.used != [2] or found.placement.layers_on(2) == LAYERS
    kept = placed({"tensors": {"_exps": "local"}})
    assert kept.placement.layers_on(1) + kept.placement.layers_on(2) == LAYERS
    # A part that a rule has taken away leaves its memory to others.
    assert kept.prediction.memory[1] + kept.prediction.memory[2] < GB


def test_a_whole_layer_is_where_a_rule_puts_it() -> None:
    found = placed({"layers": {"3": "w1:1"}}, 100 * GB, 800_000_000)
    assert (found.placement.homes[3], found.placement.feeds[3]) == (1, 1)


def test_the_first_rule_that_matches_a_tensor_counts() -> None:
    found = placed({"layers": {"0-9": "w1:1"}, "tensors": {r"blk\.3\.": "w2:1", "attn_q": "local"}})
    assert found.tensors["blk.3.attn_q.weight"] == 2
    assert found.tensors["blk.4.attn_q.weight"] == 0


def test_devices_may_have_their_layers_in_any_order() -> None:
    assert placed({"layers": {"0-4": "w2:1", "5-9": "w1:1"}}).placement.homes == (2,) * 5 + (1,) * 5


def test_the_kv_cache_can_stay_here() -> None:
    found = placed({"layers": {"0-9": "w1:1"}, "kv": "local"})
    assert found.placement.attends_on_cpu
    assert [cache for _, cache in found.weights_and_cache()] == [LAYERS * 4096 * 2 * 512, 0, 0]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"layers": {"0-9": "w9:1"}}, "to be on w9:1, and there are local, w1:1, w2:1"),
        ({"layers": {"0-10": "w1:1"}}, "aren't all there, the model has 0-9"),
        ({"layers": {"9-0": "w1:1"}}, "names no layers"),
        ({"layers": {"0-4": "local", "4-9": "w1:1"}}, "layers 4-9 are to be on w1:1, and layer 4 on local, too"),
        ({"layers": {"0-3": "w1:1", "4-9": "local"}}, "those on local come first"),
        ({"layers": {"0-3": "w1:1", "4-6": "w2:1", "7-9": "w1:1"}}, "keeps the layers of a device together"),
        ({"tensors": {"ffn_gate.weight": "w1:1"}}, "no tensor of this model has 'ffn_gate.weight'"),
        ({"tensors": {"(": "w1:1"}}, "no regular expression"),
        ({"kv": "w1:1"}, "kv can only be local"),
        ({"speed": 3}, "unknown field"),
        ({"layers": 3}, "Expected `object`"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rules: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        placed(rules)


def test_a_device_without_the_memory_for_its_rules_is_told_with_numbers() -> None:
    message = r"puts 703 MB of weights and 42 MB of KV cache on w1:1, beside .* it has 450 MB free"
    with pytest.raises(ConfigurationError, match=message):
        placed({"layers": {"0-9": "w1:1"}}, 100 * GB, GB // 2, 1)
    with pytest.raises(ConfigurationError, match=r"puts 671 MB of weights and 0 MB of KV cache on w1:1"):
        placed({"tensors": {"_exps": "w1:1"}}, 100 * GB, GB // 2, 1)


def test_a_cpu_without_the_memory_reads_the_file_again() -> None:
    found = placed(None, GB // 4, GB // 4)
    assert found.missing > 0
    assert placed(None, 10 * GB, GB // 4).missing == 0


def test_a_device_that_refuses_memory_gets_less_until_it_has_nothing() -> None:
    found: PlannedModel | None = placed(None, 100 * GB, 100 * GB, local=False, model=header(experts=False))
    taken = []
    while found is not None and found.used:
        taken.append(found.prediction.memory[1])
        assert list(found.placement.homes) == sorted(found.placement.homes)
        found = found.smaller([1])
    assert len(taken) > 3
    assert taken == sorted(set(taken), reverse=True)


def test_rules_are_not_changed_by_a_device_that_refuses_memory() -> None:
    found: PlannedModel | None = placed({"layers": {"0-9": "w1:1"}, "output": "local"})
    while found is not None:
        assert found.placement.homes == found.placement.feeds == (1,) * LAYERS
        found = found.smaller([1])


def test_rules_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "placement.toml"
    path.write_text('kv = "local"\n[layers]\n"0-9" = "w1:1"\n', encoding="utf-8")
    assert read_rules(str(path)) == PlacementRules(layers={"0-9": "w1:1"}, kv="local")
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_rules(str(tmp_path / "other.toml"))


def test_a_models_own_table_has_rules(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    table = 'path = "a.gguf"\nplacement = { kv = "local", layers = { 0-9 = "w1:1" } }\n'
    path.write_text(f'devices = "local,w1:1"\n[models.a]\n{table}', encoding="utf-8")
    own = resolve({}, {}, path).for_model("a").settings
    assert own.devices == "local,w1:1"
    assert read_rules(own.placement) == PlacementRules(layers={"0-9": "w1:1"}, kv="local")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("output = " + "[" * 5000, "nested too deeply"),
        ("output = " + "9" * 5000, "digits"),
        ("layers = 3", "Expected `object`"),
        ("layers = {0 = 1}", "Expected `str`"),
        ("kv = []", "Expected `str"),
        ("experts = 'local'", "unknown field `experts`"),
        ("output = 'local'\noutput = 'local'", "overwrite"),
        ("[tensors]\n'(' = 'local'", "no regular expression"),
        ("[tensors]\n'a{99999999999}' = 'local'", "no regular expression"),
        (f"[tensors]\n{'a' * 1001} = 'local'", "length <= 1000"),
        ("[layers]\n'9-0' = 'local'", "names no layers"),
        (f"[layers]\n'{'9' * 500}' = 'local'", "names no layers"),
        ("#" * 1_000_001, "1,000,000 bytes"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_holds_no_rules_is_told_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "placement.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"placement.*{reason}"):
        read_rules(str(path))


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bytes").write_bytes(b"\xff")
    for path, reason in (
        ("/dev/zero", "regular file"),
        (str(tmp_path / "fifo"), "regular file"),
        (str(tmp_path), "directory"),
        (str(tmp_path / "bytes"), "utf-8"),
        ("~no-such-user-here/file", "home directory"),
    ):
        with pytest.raises(ConfigurationError, match=f"the placement file {path} can't be read: .*{reason}"):
            read_rules(path)


def test_a_pattern_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_patterns, "_SECONDS", 1)
    with pytest.raises(ConfigurationError, match=r"search of '\(\.\*\.\*\)\+=' .* takes more than 1 s"):
        placed({"tensors": {"attn_q": "w1:1", "(.*.*)+=": "w1:1"}})
