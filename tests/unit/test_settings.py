"""The origins of settings, their order, and the errors for wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.settings import FIELDS, STARTER_MODEL, Settings, default_file, resolve


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings of the person who runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    resolved = resolve({}, {})
    assert resolved.settings == Settings()
    assert resolved.settings.model == STARTER_MODEL
    assert resolved.origins == dict.fromkeys(FIELDS, "default")


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "port = 1\nparallel = 1\nthreads = 1\n")
    environment = {"TAILRACE_PORT": "2", "TAILRACE_PARALLEL": "2"}
    resolved = resolve({"port": 3, "parallel": None}, environment, file)
    assert (resolved.settings.port, resolved.origins["port"]) == (3, "flag")
    assert (resolved.settings.parallel, resolved.origins["parallel"]) == (2, "environment")
    assert (resolved.settings.threads, resolved.origins["threads"]) == (1, "file")
    assert (resolved.settings.ctx, resolved.origins["ctx"]) == (0, "default")


def test_the_usual_file_is_read_when_it_is_there(config_home: Path) -> None:
    assert default_file() == config_home / "tailrace" / "config.toml"
    write(default_file(), 'alias = "mine"\ncors_origins = ["http://a", "http://b"]\n')
    resolved = resolve({}, {})
    assert resolved.settings.alias == "mine"
    assert resolved.settings.cors_origins == ("http://a", "http://b")
    assert resolved.origins["cors_origins"] == "file"


def test_the_process_environment_is_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_HOST", "0.0.0.0")
    assert resolve({}).settings.host == "0.0.0.0"


def test_words_of_the_environment_become_values() -> None:
    environment = {
        "TAILRACE_PORT": "0",
        "TAILRACE_KEEPALIVE_SECONDS": "2.5",
        "TAILRACE_CORS_ORIGINS": "http://a, http://b",
        "TAILRACE_ALIASES": "claude-*,gpt-4",
        "TAILRACE_GPU_LAYERS": "-1",
        "TAILRACE_KEEPALIVE_STYLE": "comment",
        "TAILRACE_MODELS": "a folder, and no setting",
    }
    settings = resolve({}, environment).settings
    assert settings.port == 0
    assert settings.keepalive_seconds == 2.5
    assert settings.cors_origins == ("http://a", "http://b")
    assert settings.aliases == ("claude-*", "gpt-4")
    assert settings.gpu_layers == -1
    assert settings.keepalive_style == "comment"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("parallel", "0"),
        ("parallel", "257"),
        ("ctx", "1.5"),
        ("keepalive_seconds", "0"),
        ("keepalive_style", "dots"),
        ("backend", "torch"),
        ("log_level", "DEBUG"),
    ],
)
def test_a_wrong_value_names_the_setting_the_value_and_the_origin(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, {f"TAILRACE_{name.upper()}": value})
    assert f"{name} (environment) can't be '{value}'" in str(caught.value)


def test_a_wrong_flag_says_that_it_is_one() -> None:
    with pytest.raises(ConfigurationError, match=r"port \(flag\) can't be 70000"):
        resolve({"port": 70_000}, {})


def test_a_wrong_type_in_the_file_is_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"port \(file\) can't be '8000'"):
        resolve({}, {}, write(tmp_path / "c.toml", 'port = "8000"\n'))


def test_a_wrong_key_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, {}, write(tmp_path / "c.toml", "api_key = 12345\n"))
    assert "12345" not in str(caught.value)
    assert "api_key (file)" in str(caught.value)


def test_unknown_settings_in_the_file_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "prot = 1\nport = 2\nhots = 3\n")
    with pytest.raises(ConfigurationError, match="unknown settings: hots, prot"):
        resolve({}, {}, file)


@pytest.mark.parametrize("content", ["port = ", "port 8000", "\x00"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: str) -> None:
    file = write(tmp_path / "c.toml", content)
    with pytest.raises(ConfigurationError, match=str(file)):
        resolve({}, {}, file)


def test_a_named_file_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        resolve({}, {}, tmp_path / "none.toml")


def test_a_models_own_settings_count_before_the_files_and_after_flags(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('ctx = 4096\nparallel = 2\n[models.coder]\npath = "coder.gguf"\nctx = 8192\nparallel = 3\n')
    resolved = resolve({"parallel": 5}, {}, file)
    coder, other = resolved.for_model("coder"), resolved.for_model("other")
    assert (coder.settings.model, coder.settings.ctx, coder.settings.parallel) == ("coder.gguf", 8192, 5)
    assert coder.origins["ctx"] == "file"
    assert (other.settings.ctx, other.settings.parallel) == (4096, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models.coder]\nport = 1\n", "can't have port"),
        ("[models.coder]\nctx = -1\n", r"\[models.coder\] ctx \(file\) can't be -1"),
        ('[models.coder]\ncache_type_k = "q3"\n', "can't be 'q3': name f16, bf16, q8_0, q4_0"),
        ('[models]\ncoder = "x"\n', "has to be a table"),
        ('models = "x"\n', r"\[models.NAME\]"),
    ],
)
def test_a_models_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        resolve({}, {}, file)
