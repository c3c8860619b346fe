"""Which models a command line and a settings file serve, with which names, files and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.cli import served_models as module
from tailrace.cli.served_models import ServedModels, served_models
from tailrace.errors import ConfigurationError, ModelError
from tailrace.settings import Resolved


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's own, and nothing tuned."""
    for name in ("CONFIG", "CACHE", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path))
    monkeypatch.setattr(module, "tuned", lambda resolved: resolved)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that stand for models; nothing reads them before a load."""
    for name in ("coder", "writer"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    return tmp_path


def settings_file(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text.replace("FOLDER", str(folder)))
    return path


def names(served: ServedModels) -> list[str]:
    return [spec.name for spec in served.specs]


def test_one_model_is_served_as_the_settings_say(folder: Path) -> None:
    served = served_models([str(folder / "coder.gguf")], {"alias": "mine", "ctx": 512})
    (spec,) = served.specs
    assert (spec.name, spec.path, spec.at_start) == ("mine", str(folder / "coder.gguf"), True)
    assert served.settings == spec.settings
    assert spec.settings.ctx == 512


def test_several_arguments_are_several_models_and_the_first_starts(folder: Path) -> None:
    served = served_models([str(folder / "coder.gguf"), str(folder / "writer.gguf")], {"aliases": ("claude-*",)})
    assert names(served) == ["coder", "writer"]
    assert [spec.at_start for spec in served.specs] == [True, False]
    assert [spec.settings.aliases for spec in served.specs] == [("claude-*",), ()]


def test_every_table_of_the_file_is_served_with_its_settings(folder: Path) -> None:
    file = settings_file(
        folder,
        """
        ctx = 4096
        [models.code]
        path = "FOLDER/coder.gguf"
        ctx = 512
        pinned = true
        [models.prose]
        path = "FOLDER/writer.gguf"
        alias = "shakespeare"
        pinned = true
        """,
    )
    served = served_models([], {}, file)
    assert names(served) == ["code", "shakespeare"]
    assert [spec.settings.ctx for spec in served.specs] == [512, 4096]
    assert [spec.path for spec in served.specs] == [str(folder / "coder.gguf"), str(folder / "writer.gguf")]
    assert [spec.at_start for spec in served.specs] == [True, True]
    assert served.settings.ctx == 4096


def test_an_argument_comes_first_and_may_name_a_table(folder: Path) -> None:
    file = settings_file(
        folder, '[models.code]\npath = "FOLDER/coder.gguf"\n[models.prose]\npath = "FOLDER/writer.gguf"\nctx = 99\n'
    )
    served = served_models(["prose"], {}, file)
    assert names(served) == ["prose", "code"]
    assert served.specs[0].settings.ctx == 99


def test_a_file_in_the_command_line_gets_the_table_of_its_name(folder: Path) -> None:
    file = settings_file(folder, '[models.coder]\npath = "FOLDER/coder.gguf"\nctx = 99\n')
    served = served_models([str(folder / "coder.gguf")], {}, file)
    assert [(spec.name, spec.settings.ctx) for spec in served.specs] == [("coder", 99)]


def test_a_flag_holds_for_every_model(folder: Path) -> None:
    file = settings_file(folder, '[models.coder]\npath = "FOLDER/coder.gguf"\nctx = 99\n')
    served = served_models([str(folder / "writer.gguf")], {"ctx": 256}, file)
    assert [spec.settings.ctx for spec in served.specs] == [256, 256]


def test_an_alias_of_several_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"alias is 'mine', but 2 models are served .*\[models.NAME\]"):
        served_models([str(folder / "coder.gguf"), str(folder / "writer.gguf")], {"alias": "mine"})


def test_two_models_of_one_name_are_refused_with_both(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "coder.gguf").write_bytes(b"GGUF")
    first, second = str(folder / "coder.gguf"), str(other / "coder.gguf")
    with pytest.raises(ConfigurationError, match="two models would have the name 'coder'") as raised:
        served_models([first, second], {})
    assert first in str(raised.value)
    assert second in str(raised.value)


def test_an_argument_without_a_file_is_an_error_and_a_table_without_one_is_served_later(folder: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        served_models([str(folder / "coder.gguf"), str(folder / "gone.gguf")], {})
    file = settings_file(folder, '[models.a]\npath = "FOLDER/gone.gguf"\n[models.b]\npath = "FOLDER/coder.gguf"\n')
    served = served_models([], {}, file)
    assert [(spec.name, spec.path) for spec in served.specs] == [
        ("a", str(folder / "gone.gguf")),
        ("b", str(folder / "coder.gguf")),
    ]


def test_scripted_models_have_the_names_of_arguments_and_tables(folder: Path) -> None:
    assert names(served_models([], {"backend": "fake"})) == ["fake"]
    assert names(served_models(["a", "b"], {"backend": "fake"})) == ["a", "b"]
    file = settings_file(folder, "[models.a]\n[models.b]\nparallel = 2\n")
    served = served_models([], {"backend": "fake"}, file)
    assert names(served) == ["a", "b"]
    assert [spec.path for spec in served.specs] == [None, None]
    assert [spec.settings.model for spec in served.specs] == ["a", "b"]


def test_results_of_tuning_are_each_model_s_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tuned(resolved: Resolved) -> Resolved:
        return resolved.tuned({"threads": 3 if "coder" in resolved.settings.model else 5})

    monkeypatch.setattr(module, "tuned", tuned)
    served = served_models([str(folder / "coder.gguf"), str(folder / "writer.gguf")], {})
    assert [spec.settings.threads for spec in served.specs] == [3, 5]
