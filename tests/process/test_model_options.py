"""Options of loading a model, on the real one: metadata overrides, RoPE, and how its file is held in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend, LogSink
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.tokenizer_sandbox import TokenizerProcess
from tailrace.errors import ConfigurationError
from tailrace.models.model_reference import locate_model
from tailrace.settings import Settings

MODEL = locate_model("smollm2-135m").path


def load(log: LogSink | None = None, **options: Any) -> LlamaBackend:
    given = {"ctx": 512, "kv_tokens": 512, "parallel": 1, "gpu_layers": 0, **options}
    return create_llama(MODEL, Settings(**given), log=log)


def logits(backend: LlamaBackend) -> npt.NDArray[np.float32]:
    """Those after a text that is long enough for rotations to count."""
    tokens = backend.tokenize("The capital of France is Paris, and that of Italy is Rome. " * 8)
    positions = list(range(len(tokens)))
    return np.array(backend.decode(tokens, positions, [0] * len(tokens), [len(tokens) - 1])[0])


def test_an_override_changes_the_model_and_its_description() -> None:
    key = "llama.context_length"
    plain, changed = load(ctx=0, kv_tokens=0), load(ctx=0, kv_tokens=0, override_kv=(f"{key}=int:1024",))
    try:
        assert plain.info.context != 1024
        assert (changed.info.context, changed.info.context_trained) == (1024, 1024)
    finally:
        plain.close()
        changed.close()


def test_an_override_of_the_vocabulary_holds_in_the_tokenising_process_too() -> None:
    with_start = load(override_kv=("tokenizer.ggml.add_bos_token=bool:true", "tokenizer.ggml.pre=str:gpt-2"))
    text = "It's 1984. " * 20
    try:
        inside = with_start.tokenize(text)
        process = TokenizerProcess(MODEL, with_start.metadata_overrides)
        try:
            (outside,) = process.run(1, [TokenizerInput(text)])
            assert outside == inside
        finally:
            process.close()
        plain = load()
        try:
            assert plain.tokenize(text) != inside
        finally:
            plain.close()
    finally:
        with_start.close()


def test_an_override_of_the_wrong_type_fails_the_load() -> None:
    with pytest.raises(ConfigurationError, match="is int in the model's file, not str"):
        load(override_kv=("llama.block_count=str:thirty",))


@pytest.mark.parametrize(
    "options",
    [
        {"rope_freq_base": 1_000_000.0},
        {"rope_freq_scale": 0.25},
        {"rope_scaling": "yarn", "rope_scale": 4.0, "yarn_orig_ctx": 256},
    ],
    ids=["base", "scale", "yarn"],
)
def test_rope_options_change_what_distances_mean(options: dict[str, Any]) -> None:
    plain, changed = load(ctx=2048, kv_tokens=2048), load(ctx=2048, kv_tokens=2048, **options)
    try:
        assert not np.allclose(logits(plain), logits(changed), atol=0.05)
    finally:
        plain.close()
        changed.close()


def test_a_scale_is_the_inverse_of_the_frequencies_factor() -> None:
    by_scale = load(ctx=2048, kv_tokens=2048, rope_scale=4.0)
    by_factor = load(ctx=2048, kv_tokens=2048, rope_freq_scale=0.25)
    try:
        assert np.array_equal(logits(by_scale), logits(by_factor))
    finally:
        by_scale.close()
        by_factor.close()


def is_mapped() -> bool:
    return str(MODEL.resolve()) in Path("/proc/self/maps").read_text(encoding="utf-8")


_MAPPED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_model_options import is_mapped, load
warnings = []
backend = load(mmap={mmap}, mlock={mlock}, log=lambda level, line: level == "warning" and warnings.append(line))
status = open("/proc/self/status").read()
print(is_mapped(), status[status.index("VmLck"):].split()[1], *warnings)
"""


def in_a_process(*, mmap: bool, mlock: bool) -> tuple[bool, int, str]:
    """Whether the file is mapped, how many kB are locked, and the warning."""
    program = _MAPPED.format(mmap=mmap, mlock=mlock)
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mapped, locked, *warning = done.stdout.split(maxsplit=2)
    return mapped == "True", int(locked), "".join(warning).strip()


def test_a_file_is_mapped_unless_the_setting_says_no() -> None:
    assert in_a_process(mmap=True, mlock=False) == (True, 0, "")
    assert in_a_process(mmap=False, mlock=False) == (False, 0, "")


def test_a_model_is_kept_in_memory_or_a_warning_says_why_not() -> None:
    _, locked, warning = in_a_process(mmap=True, mlock=True)
    if locked > 100_000:
        assert warning == ""
    else:
        assert "mlock" in warning
        assert "ulimit -l" in warning


@pytest.mark.parametrize("remembered", [False, True])
def test_rules_for_devices_need_one(remembered: bool) -> None:
    """Those of a user are refused. Those that ``tailrace tune`` has stored are of a device that is gone."""
    settings = Settings(ctx=512, parallel=1, placement={"layers": {"0-9": "CUDA0"}, "remembered": remembered})
    if remembered:
        create_llama(MODEL, settings, workers={}).close()
    else:
        with pytest.raises(ConfigurationError, match="set --devices"):
            create_llama(MODEL, settings, workers={})
