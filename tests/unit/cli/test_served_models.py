"""Which models a command line and a settings file serve, with which names, files and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_files import STRING, pair, text, tiny_gguf
from model_stores import Stores
from tailrace.cli import served_models as module
from tailrace.cli import shown_pull
from tailrace.cli.served_models import ServedModels, served_models
from tailrace.errors import ConfigurationError, ModelError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.pulls.progress import Pulled
from tailrace.models.reference import Reference
from tailrace.serving.model_spec import loads_on_demand
from tailrace.settings import STARTER_MODEL, Resolved


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's own, and nothing tuned."""
    for name in ("CONFIG", "CACHE", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path))
    monkeypatch.setattr(module, "tuned", lambda resolved, path=None: resolved)
    Stores(tmp_path / "stores").use(monkeypatch)


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


def test_an_only_table_without_a_file_is_an_error(folder: Path) -> None:
    file = settings_file(folder, '[models.a]\npath = "FOLDER/gone.gguf"\n')
    with pytest.raises(ModelError, match="there is no file"):
        served_models([], {}, file)


def test_a_wrong_parameter_of_a_table_is_named_with_it(folder: Path) -> None:
    file = settings_file(folder, '[models.a]\npath = "FOLDER/coder.gguf"\nsampling = { heat = 1 }\n')
    with pytest.raises(ConfigurationError, match=r"\[models.a\]: 'sampling.heat'"):
        served_models([], {}, file)


def test_scripted_models_have_the_names_of_arguments_and_tables(folder: Path) -> None:
    assert names(served_models([], {"backend": "fake"})) == ["fake"]
    assert names(served_models(["a", "b"], {"backend": "fake"})) == ["a", "b"]
    file = settings_file(folder, "[models.a]\n[models.b]\nparallel = 2\n")
    served = served_models([], {"backend": "fake"}, file)
    assert names(served) == ["a", "b"]
    assert [spec.path for spec in served.specs] == [None, None]
    assert [spec.settings.model for spec in served.specs] == ["a", "b"]


def test_results_of_tuning_are_each_model_s_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tuned(resolved: Resolved, path: Path | None = None) -> Resolved:
        return resolved.tuned({"threads": 3 if "coder" in resolved.settings.model else 5})

    monkeypatch.setattr(module, "tuned", tuned)
    served = served_models([str(folder / "coder.gguf"), str(folder / "writer.gguf")], {})
    assert [spec.settings.threads for spec in served.specs] == [3, 5]


class TestFoundModels:
    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        return Stores(tmp_path / "stores")

    @pytest.fixture
    def more(self, tmp_path: Path) -> Path:
        """A folder with three models, of which two have one name, and with two files that can't be served."""
        more = tmp_path / "more"
        for path in ("a.gguf", "x/b.gguf", "y/b.gguf"):
            (more / path).parent.mkdir(parents=True, exist_ok=True)
            (more / path).write_bytes(tiny_gguf())
        (more / "broken.gguf").write_bytes(b"GG")
        (more / "image.gguf").write_bytes(tiny_gguf(extra=(pair("general.type", STRING, text("mmproj")),)))
        return more

    def test_a_folder_is_served_by_names_and_loaded_on_demand(self, more: Path) -> None:
        served = served_models([], {"models_dir": str(more), "ctx": 512})
        assert names(served) == ["a", "x/b", "y/b"]
        assert [spec.path for spec in served.specs] == [str(more / f"{name}.gguf") for name in ("a", "x/b", "y/b")]
        assert not any(spec.at_start for spec in served.specs)
        assert {spec.settings.ctx for spec in served.specs} == {512}

    def test_named_models_come_first_and_are_served_once(self, more: Path, folder: Path) -> None:
        served = served_models(["x/b", str(folder / "coder.gguf")], {"models_dir": str(more)})
        assert names(served) == ["x/b", "coder", "a", "y/b"]
        assert [spec.at_start for spec in served.specs] == [True, False, False, False]

    def test_an_only_model_is_loaded_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "only").mkdir()
        (tmp_path / "only" / "a.gguf").write_bytes(tiny_gguf())
        (spec,) = served_models([], {"models_dir": str(tmp_path / "only")}).specs
        assert (spec.name, spec.at_start) == ("a", True)

    def test_another_model_of_the_name_has_its_store_in_front(self, more: Path, tmp_path: Path) -> None:
        (tmp_path / "a.gguf").write_bytes(tiny_gguf())
        served = served_models([str(tmp_path / "a.gguf")], {"models_dir": str(more)})
        assert names(served) == ["a", "folder/a", "x/b", "y/b"]

    def test_a_table_has_the_settings_of_a_found_model(self, more: Path) -> None:
        file = settings_file(more, '[models."y/b"]\npath = "FOLDER/y/b.gguf"\nctx = 99\npinned = true\n')
        served = served_models([], {"models_dir": str(more)}, file)
        assert {spec.name: (spec.settings.ctx, spec.at_start) for spec in served.specs} == {
            "y/b": (99, True),
            "a": (0, False),
            "x/b": (0, False),
        }

    def test_an_only_model_is_served_as_the_first_of_several(self, folder: Path, tmp_path: Path) -> None:
        only = tmp_path / "only"
        only.mkdir()
        (only / "a.gguf").write_bytes(tiny_gguf())
        served = served_models([], {"models_dir": str(only)})
        assert names(served) == ["a"]
        assert loads_on_demand(served.settings, served.specs)
        served = served_models([str(folder / "coder.gguf")], {"all_models": True, "alias": "mine"})
        assert [(spec.name, spec.at_start) for spec in served.specs] == [("mine", True)]
        assert loads_on_demand(served.settings, served.specs)

    def test_an_empty_folder_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for folder in ("empty", "none"):
            with pytest.raises(ConfigurationError, match="where no model can be served"):
                served_models([], {"models_dir": str(tmp_path / folder)})

    def test_all_models_of_the_stores_are_served(self, stores: Stores, more: Path) -> None:
        stores.add_own("tiny", "t.gguf", tiny_gguf())
        stores.add_hub("org/repo", {"r-Q8_0.gguf": tiny_gguf()})
        stores.add_lm_studio("org/repo/r-Q8_0.gguf", tiny_gguf())
        stores.add_ollama("registry.ollama.ai/library/llama3.2/3b", tiny_gguf() + b"3")
        stores.add_ollama("registry.ollama.ai/library/gone/3b", tiny_gguf() + b"4").unlink()
        served = served_models([], {"all_models": True})
        assert names(served) == ["tiny", "org/repo:Q8_0", "llama3.2:3b"]
        served = served_models(["hf:org/repo"], {"all_models": True, "models_dir": str(more)})
        assert names(served) == ["org/repo:Q8_0", "tiny", "a", "x/b", "y/b", "llama3.2:3b"]

    def test_without_the_switch_only_named_models_are_served(self, stores: Stores) -> None:
        stores.add_own("tiny", "t.gguf", tiny_gguf())
        stores.add_own("other", "t.gguf", tiny_gguf())
        assert names(served_models(["other"], {})) == ["other"]

    def test_a_store_has_system_prompt_and_parameters(self, stores: Stores) -> None:
        layers = {"system": b"Be brief.", "params": b'{"temperature": 0.5, "top_k": 9}'}
        stores.add_ollama("registry.ollama.ai/library/phi4/latest", tiny_gguf(), layers=layers)
        spec = served_models(["phi4"], {}).specs[0]
        assert spec.settings.system_prompt == "Be brief."
        assert spec.settings.sampling == {"temperature": 0.5, "top_k": 9}
        own = settings_file(stores.home, 'system_prompt = "Mine."\n[sampling]\ntemperature = 1.0\n')
        for served in (served_models(["phi4"], {}, own), served_models([], {"all_models": True}, own)):
            settings = served.specs[0].settings
            assert settings.system_prompt == "Mine."
            assert settings.sampling == {"temperature": 1.0, "top_k": 9}

    def test_a_model_that_is_not_here_is_fetched(self, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def pull(reference: Reference, show: object, *, memory: int | None) -> Pulled:
            asked.append(str(reference))
            snapshot = stores.add_hub("org/repo", {"r-Q8_0.gguf": tiny_gguf()})
            return Pulled(path=str(snapshot / "r-Q8_0.gguf"), bytes=1, present=False)

        monkeypatch.setattr(shown_pull, "pull", pull)
        for _ in range(2):
            (spec,) = served_models(["hf:org/repo:q8_0"], {}).specs
            assert spec.name == "org/repo:Q8_0"
        assert asked == ["hf:org/repo:q8_0"]

    def test_of_the_catalogue_the_starter_model_alone_is_fetched(
        self, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def pull(reference: Reference, show: object, *, memory: int | None) -> Pulled:
            asked.append(str(reference))
            file = stores.add_hub("org/repo", {"r-Q8_0.gguf": tiny_gguf()}) / "r-Q8_0.gguf"
            return Pulled(path=str(file), bytes=1, present=False)

        monkeypatch.setattr(shown_pull, "pull", pull)
        (spec,) = served_models([], {}).specs
        assert (asked, spec.name) == ([STARTER_MODEL], STARTER_MODEL)
        other = next(name for name in CATALOGUE if name != STARTER_MODEL)
        with pytest.raises(ModelError, match=f"tailrace pull {other}"):
            served_models([other], {})
        assert asked == [STARTER_MODEL]
