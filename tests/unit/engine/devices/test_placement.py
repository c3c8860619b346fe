"""The device of each tensor, by free memory and by rules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.engine.devices import name_patterns
from tailrace.engine.devices.placement import (
    EMBEDDING,
    ModelSizes,
    Placement,
    Space,
    bytes_by_device,
    place,
    smaller,
)
from tailrace.engine.devices.rules import PlacementRules, read_rules
from tailrace.errors import ConfigurationError
from tailrace.settings import resolve

LAYERS = 10
_PARTS = {"attn_q": 100, "attn_norm": 1, "ffn_up_exps": 400}


def sizes(layers: int = LAYERS, kv: int = 50, *, tied: bool = False) -> ModelSizes:
    tensors = {f"blk.{layer}.{part}.weight": size for layer in range(layers) for part, size in _PARTS.items()}
    tensors |= {EMBEDDING: 700, "output_norm.weight": 1} | ({} if tied else {"output.weight": 700})
    return ModelSizes(tensors, layers, kv)


def spaces(*free: int) -> list[Space]:
    return [Space("local" if index == 0 else f"w{index}:1", each) for index, each in enumerate(free)]


def placed(rules: dict[str, Any] | None = None, *free: int, **options: Any) -> Placement:
    usual = {"local": True, "gpu_layers": -1}
    model = options.pop("model", sizes())
    return place(model, spaces(*(free or (100_000, 100_000, 100_000))), read_rules(rules), **{**usual, **options})


def test_layers_are_divided_by_free_memory() -> None:
    found = placed(None, 100_000, 100_000)
    assert found.homes in ((0,) * 5 + (1,) * 5, (0,) * 4 + (1,) * 6, (0,) * 6 + (1,) * 4)
    assert placed(None, 100_000, 100_000, local=False).homes == (1,) * LAYERS
    assert placed(None, 100_000, 100_000, gpu_layers=3).homes == (0,) * 7 + (1,) * 3
    assert placed(None, 100_000, 100_000, 300_000, local=False).homes.count(2) in (7, 8)


def test_the_embedding_stays_here_and_the_output_goes_with_the_last_layer() -> None:
    found = placed(None, 100_000, 100_000, local=False)
    assert found.tensors[EMBEDDING] == 0
    assert found.tensors["output.weight"] == found.tensors["output_norm.weight"] == found.output == 1
    tied = placed(None, 100_000, 100_000, local=False, model=sizes(tied=True))
    assert tied.tensors[EMBEDDING] == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 20_000), min_size=2, max_size=5),
    st.integers(1, 40),
    st.integers(-1, 45),
    st.booleans(),
)
def test_no_device_gets_more_than_it_has(free: list[int], layers: int, gpu_layers: int, local: bool) -> None:
    model = sizes(layers)
    found = place(model, spaces(*free), PlacementRules(), local=local, gpu_layers=gpu_layers)
    assert len(found.homes) == layers
    assert list(found.homes) == sorted(found.homes), "llama.cpp keeps each device's layers together"
    for device, (weights, cache) in enumerate(bytes_by_device(model, found, len(free))):
        if device and found.layers_on(device):
            assert weights + cache <= free[device]


def test_rules_name_layers_and_tensors() -> None:
    found = placed({"layers": {"4-6": "w1:1", "7-9": "w2:1"}, "tensors": {"_exps": "local"}, "output": "local"})
    assert found.homes == (0,) * 4 + (1,) * 3 + (2,) * 3
    assert {found.tensors[f"blk.{layer}.ffn_up_exps.weight"] for layer in range(LAYERS)} == {0}
    assert found.tensors["blk.5.attn_q.weight"] == 1
    assert found.tensors["output.weight"] == 0
    assert found.is_fixed


def test_the_first_rule_that_matches_a_tensor_counts() -> None:
    found = placed({"layers": {"0-9": "w1:1"}, "tensors": {r"blk\.3\.": "w2:1", "attn_q": "local"}})
    assert found.tensors["blk.3.attn_q.weight"] == 2
    assert found.tensors["blk.4.attn_q.weight"] == 0


def test_devices_may_have_their_layers_in_any_order() -> None:
    assert placed({"layers": {"0-4": "w2:1", "5-9": "w1:1"}}).homes == (2,) * 5 + (1,) * 5


def test_the_kv_cache_can_stay_here() -> None:
    found = placed({"layers": {"0-9": "w1:1"}, "kv": "local"})
    assert found.attends_on_cpu
    assert [cache for _, cache in bytes_by_device(sizes(), found, 3)] == [500, 0, 0]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"layers": {"0-9": "w9:1"}}, "to be on w9:1, and there are local, w1:1, w2:1"),
        ({"layers": {"0-10": "w1:1"}}, "aren't all there, the model has 0-9"),
        ({"layers": {"9-0": "w1:1"}}, "names no layers"),
        ({"layers": {"0-3": "w1:1"}}, "those on local come first"),
        ({"layers": {"0-3": "w1:1", "4-6": "w2:1", "7-9": "w1:1"}}, "keeps the layers of a device together"),
        ({"tensors": {"ffn_gate": "w1:1"}}, "no tensor of this model has 'ffn_gate'"),
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
    million = 1_000_000
    model = ModelSizes({name: size * million for name, size in sizes().tensors.items()}, LAYERS, 50 * million)
    with pytest.raises(ConfigurationError, match=r"5\.7 GB of weights and 500 MB of KV cache on w1:1.*4\.0 GB free"):
        placed({"layers": {"0-9": "w1:1"}}, 100_000 * million, 4000 * million, 1, model=model)


def test_a_device_that_refuses_memory_gets_fewer_layers_until_it_has_none() -> None:
    model = sizes()
    found: Placement | None = placed(None, 100_000, 100_000, 100_000, local=False)
    assert found is not None
    others = found.layers_on(2)
    counts = []
    while found is not None:
        counts.append(found.layers_on(1))
        assert len(found.homes) == LAYERS
        assert list(found.homes) == sorted(found.homes)
        assert found.layers_on(2) == others
        found = smaller(found, model, [1])
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0


def test_rules_are_not_changed_by_a_device_that_refuses_memory() -> None:
    assert smaller(placed({"layers": {"0-9": "w1:1"}}), sizes(), [1]) is None


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
