"""Weights in another format, with the real model: converted once, measured, found again and served."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from model_files import tiny_gguf
from servers import ServerProcess, serving
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.weights import file_choice as weights
from tailrace.engine.weights import quality, speed
from tailrace.errors import ModelError
from tailrace.machine.tuning_record import TuningRecord
from tailrace.models.conversion_formats import CONVERSION_FORMATS
from tailrace.models.converted_files import ConvertedFile, ConvertedFiles
from tailrace.models.model_header import read_facts
from tailrace.models.model_reference import locate_model
from tailrace.settings import Settings

MODEL = locate_model("smollm2-135m").path
FAST = CONVERSION_FORMATS["Q4_0-KV8"]
SETTINGS = Settings(ctx=1024, parallel=2, gpu_layers=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own, in which nothing was converted."""
    return tmp_path_factory.mktemp("models")


def command(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name("tailrace")), *arguments],
        env=environment | {"TAILRACE_MODELS": str(store), "XDG_CONFIG_HOME": str(store), "XDG_STATE_HOME": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def converted(store: Path) -> tuple[str, ConvertedFile]:
    """What ``tailrace convert`` said of the starter model, and the conversion that it left."""
    done = command(store, "convert", str(MODEL), "--to", "fast", "--output", str(store / "copy.gguf"))
    assert done.returncode == 0, done.stderr
    found = ConvertedFiles(store / ".converted").find(MODEL, FAST)
    assert found is not None
    return done.stdout, found


def test_convert_measures_the_converted_file(converted: tuple[str, ConvertedFile], store: Path) -> None:
    said, made = converted
    assert made.comparison is not None
    lost = made.comparison.quality
    assert lost.tokens > 1500
    # 0.18 nats on the machine where it was first measured; another CPU's kernels move the third digit.
    assert 0.05 < lost.divergence < 0.4
    assert 0.6 < lost.same_top < 0.95
    assert lost.perplexity > lost.perplexity_before > 5
    assert made.bytes < made.bytes_before
    assert read_facts(made.path).quantisation == "Q4_0"
    for shown in (f"{lost.divergence:.4f}", f"{lost.perplexity:.2f}", f"{lost.perplexity_before:.2f}", "copy.gguf"):
        assert shown in said
    assert (store / "copy.gguf").stat().st_size == made.bytes


def test_a_second_convert_finds_it(converted: tuple[str, ConvertedFile], store: Path) -> None:
    written = converted[1].path.stat()
    done = command(store, "convert", str(MODEL), "--to", "q4_0-kv8")
    assert done.returncode == 0, done.stderr
    assert str(converted[1].path) in done.stdout
    assert converted[1].path.stat().st_ino == written.st_ino


def test_convert_overwrites_nothing(converted: tuple[str, ConvertedFile], store: Path) -> None:
    done = command(store, "convert", str(MODEL), "--output", str(store / "copy.gguf"))
    assert done.returncode == 1
    assert "is there already" in done.stderr


def test_an_unknown_format_is_one_line(store: Path) -> None:
    done = command(store, "convert", str(MODEL), "--to", "Q9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no weight format 'Q9'")


def test_tensors_already_in_the_format_are_unchanged(tmp_path: Path, converted: tuple[str, ConvertedFile]) -> None:
    settings = msgspec.structs.replace(SETTINGS, weights="fast")
    file = weights.select_weights_file(converted[1].path, settings, lambda _, __: None, None, ConvertedFiles(tmp_path))
    assert file == converted[1].path
    assert list(tmp_path.iterdir()) == []


def test_as_is_converts_nothing(tmp_path: Path) -> None:
    assert weights.select_weights_file(MODEL, SETTINGS, lambda _, __: None, None, ConvertedFiles(tmp_path)) == MODEL
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def server(store: Path, converted: tuple[str, ConvertedFile]) -> Iterator[ServerProcess]:
    environment = {"TAILRACE_MODELS": str(store)}
    with serving(str(MODEL), "--weights", "fast", "--ctx", "1024", environment=environment) as running:
        yield running


def test_serve_uses_the_converted_file_and_logs_it(server: ServerProcess, converted: tuple[str, ConvertedFile]) -> None:
    comparison = converted[1].comparison
    assert comparison is not None
    # The measured figures decide. The log has them in both cases.
    used = comparison.rejection_reason("fast") is None
    assert ("weights converted" if used else "weights as they are") in server.log
    assert f"{comparison.quality.divergence:.4f} nats" in server.log
    assert f"{comparison.quality.perplexity:.2f}" in server.log


def test_serve_answers_with_the_converted_file(server: ServerProcess) -> None:
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        reply = json.load(answer)
    assert reply["usage"]["completion_tokens"] > 0
    assert reply["choices"][0]["message"]["content"]


def test_a_model_against_itself_loses_nothing() -> None:
    backend = create_llama(MODEL, SETTINGS)
    try:
        text = quality.fixed_text()[:1500]
        first, second = quality.predict(backend, text), quality.predict(backend, text)
    finally:
        backend.close()
    found = quality.compare(first, second)
    assert found.divergence == 0
    assert found.same_top == 1
    assert found.perplexity == found.perplexity_before


def test_a_damaged_file_is_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "fixed_text", lambda: "The tide comes in twice a day, and goes out again.")
    # Its speed isn't what this is about.
    monkeypatch.setattr(weights, "_ROUNDS", 1)
    monkeypatch.setattr(speed, "_SECONDS", 0.01)
    monkeypatch.setattr(speed, "_MAX_PREFILL_SECONDS", 0.1)
    reports: list[str] = []
    store = ConvertedFiles(tmp_path)

    def report(activity: str, part: float) -> None:
        reports.append(activity)

    made, _ = weights.convert_weights(MODEL, FAST, SETTINGS, report, None, store)
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[: len(whole) // 2])
    reports.clear()
    again, comparison = weights.convert_weights(
        MODEL, FAST, SETTINGS, lambda what, _: reports.append(what), None, store
    )
    assert "converting to Q4_0-KV8" in reports
    assert again.path.read_bytes() == whole
    assert comparison.quality.divergence > 0
    reports.clear()
    assert weights.convert_weights(MODEL, FAST, SETTINGS, report, None, store) == (
        again,
        comparison,
    )
    assert reports == []


def test_a_file_that_cannot_be_converted_has_a_reason(tmp_path: Path) -> None:
    broken = tmp_path / "tiny.gguf"
    broken.write_bytes(tiny_gguf())
    with pytest.raises(ModelError, match=r"llama.cpp can't write tiny.gguf as Q8_0: \S"):
        weights.convert_weights(
            broken, CONVERSION_FORMATS["Q8_0"], SETTINGS, lambda _, __: None, None, ConvertedFiles(tmp_path / "store")
        )


def test_tune_measures_and_its_record_is_used(store: Path, converted: tuple[str, ConvertedFile]) -> None:
    done = command(store, "tune", str(MODEL), "--quick", "--only", "threads", "--only", "weights", "--json")
    assert done.returncode == 0, done.stderr
    tuned = msgspec.json.decode(done.stdout, type=TuningRecord)
    threads = [row for row in tuned.rows if row.setting == "threads"]
    assert all(figure > 0 for row in threads for figure in row.figures)
    assert [row.value for row in threads if row.chosen] == [str(tuned.settings["threads"])]
    assert [row.ratio for row in threads if row.usual] == [1.0]
    # Only what was measured, and of the weights only the aim that the quick formats speak to.
    assert set(tuned.settings) == {"threads", "threads_prefill"}
    comparison = converted[1].comparison
    assert comparison is not None
    assert tuned.weights == {"fast": FAST.name if comparison.rejection_reason("fast") is None else "as-is"}
    settings = store / "settings.toml"
    settings.write_text(f'model = "{MODEL}"\nthreads_prefill = 1\n')
    shown = command(store, "config", "show", "--config", str(settings)).stdout
    assert re.search(rf"^threads +{tuned.settings['threads']} +tuned", shown, re.MULTILINE)
    assert re.search(r"^threads_prefill +1 +file", shown, re.MULTILINE)


def test_tune_does_not_change_explicit_settings(store: Path) -> None:
    settings = store / "set.toml"
    settings.write_text("poll = 3\n")
    done = command(store, "tune", str(MODEL), "--only", "poll", "--config", str(settings))
    assert done.returncode == 2
    assert "poll is set (file)" in done.stderr
    assert command(store, "tune", str(MODEL), "--only", "colour").returncode == 2
