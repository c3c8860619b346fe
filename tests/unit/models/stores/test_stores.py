"""What is found in each store, under which reference, and that one broken file hides no other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from model_files import tiny_gguf
from model_stores import COMMIT, Stores
from tailrace.models.stores import folder_walk
from tailrace.models.stores.all_stores import read_stores
from tailrace.models.stores.found_model import FoundModel, StoreContents, StoreName
from tailrace.models.stores.hub_cache import hub_folder
from tailrace.models.stores.lm_studio import lm_studio_folders
from tailrace.models.stores.models_folder import read_models_folder
from tailrace.models.stores.ollama_store import ollama_folders

GGUF = tiny_gguf()
ZEROS = "0" * 64


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    return Stores(tmp_path).use(monkeypatch)


def _models(store: StoreName, models_dir: Path | None = None) -> dict[str, FoundModel]:
    """A store's models by their references."""
    contents = read_stores(str(models_dir) if models_dir is not None else None, stores=(store,))
    return {model.reference: model for each in contents for model in each.models}


def _problems(contents: list[StoreContents]) -> str:
    return "\n".join(problem for each in contents for problem in each.problems)


def test_nothing_is_found_where_no_store_is(stores: Stores) -> None:
    contents = read_stores()
    assert [model for each in contents for model in each.models] == []
    assert _problems(contents) == ""


class TestHubCache:
    def test_each_quantisation_of_a_repository_is_a_model(self, stores: Stores) -> None:
        snapshot = stores.add_hub(
            "org/tiny-GGUF",
            {"tiny-Q4_K_M.gguf": GGUF, "tiny-Q8_0.gguf": GGUF + b"8", "mmproj-F16.gguf": b"p", "README.md": b"#"},
        )
        found = _models("huggingface")
        assert set(found) == {"hf:org/tiny-GGUF:Q4_K_M", "hf:org/tiny-GGUF:Q8_0"}
        model = found["hf:org/tiny-GGUF:Q8_0"]
        assert model.name == "org/tiny-GGUF:Q8_0"
        assert model.path == snapshot / "tiny-Q8_0.gguf"
        assert model.path.is_symlink()
        assert model.bytes == len(GGUF) + 1
        assert model.projector == snapshot / "mmproj-F16.gguf"
        assert model.revision == COMMIT

    def test_a_projector_is_of_the_models_of_its_folder(self, stores: Stores) -> None:
        stores.add_hub("org/tiny", {"a/mmproj-F16.gguf": b"p", "a/a-Q8_0.gguf": GGUF, "ab/b-Q4_0.gguf": GGUF})
        found = _models("huggingface")
        assert found["hf:org/tiny:Q8_0"].projector is not None
        assert found["hf:org/tiny:Q4_0"].projector is None

    def test_shards_in_a_folder_are_one_model(self, stores: Stores) -> None:
        files = {f"BF16/tiny-BF16-{number:05}-of-00003.gguf": GGUF + bytes([number]) for number in (1, 2, 3)}
        snapshot = stores.add_hub("org/tiny", files)
        (model,) = _models("huggingface").values()
        assert model.reference == "hf:org/tiny:BF16"
        assert model.path == snapshot / "BF16" / "tiny-BF16-00001-of-00003.gguf"
        assert model.bytes == 3 * (len(GGUF) + 1)

    def test_a_shard_whose_blob_is_missing_is_named(self, stores: Stores) -> None:
        files = {f"tiny-Q8_0-{number:05}-of-00003.gguf": GGUF + bytes([number]) for number in (1, 2, 3)}
        snapshot = stores.add_hub("org/tiny", files)
        (snapshot / "tiny-Q8_0-00002-of-00003.gguf").resolve().unlink()
        (model,) = _models("huggingface").values()
        assert model.problem is not None
        assert "shard 2 of 3 is missing" in model.problem

    def test_models_of_older_snapshots_are_there_too_and_mains_come_first(self, stores: Stores) -> None:
        stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF + b"old", "a-Q4_0.gguf": GGUF}, commit="a" * 40, branch=None)
        main = stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF + b"new"}, commit="b" * 40)
        os.utime(main, (1, 1))
        found = _models("huggingface")
        assert found["hf:org/tiny:Q8_0"].path.is_relative_to(main)
        assert found["hf:org/tiny:Q4_0"].revision == "a" * 40

    def test_files_without_a_quantisation_are_named_by_file(self, stores: Stores) -> None:
        stores.add_hub("org/tiny", {"a.gguf": GGUF, "x/b-Q8_0.gguf": GGUF, "y/c-Q8_0.gguf": GGUF})
        assert set(_models("huggingface")) == {
            "hf:org/tiny:a.gguf",
            "hf:org/tiny:x/b-Q8_0.gguf",
            "hf:org/tiny:y/c-Q8_0.gguf",
        }

    def test_other_folders_and_files_are_no_models(self, stores: Stores) -> None:
        stores.add_hub("org/tiny", {"model.safetensors": b"x"})
        for name in ("datasets--org--x", "models--..--..", "models--x", "models--a--b--c", ".locks", "models--org--e"):
            (stores.hub / name / "snapshots" / "no-commit").mkdir(parents=True)
        (stores.hub / "models--org--file").write_bytes(b"")
        (stores.hub / "version.txt").write_text("1")
        assert _models("huggingface") == {}

    @pytest.mark.parametrize(
        ("variables", "folder"),
        [
            ({"HF_HUB_CACHE": "~/x", "HF_HOME": "/h"}, "HOME/x"),
            ({"HUGGINGFACE_HUB_CACHE": "/y"}, "/y"),
            ({"HF_HOME": "/h"}, "/h/hub"),
            ({"HF_HOME": "$OTHER/h", "OTHER": "/o"}, "/o/h/hub"),
            ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
            ({}, "HOME/.cache/huggingface/hub"),
        ],
    )
    def test_the_folder_is_the_librarys(
        self, stores: Stores, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
    ) -> None:
        for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(hub_folder()) == folder.replace("HOME", str(stores.home))


class TestOllamaStore:
    def test_a_model_with_all_its_layers(self, stores: Stores) -> None:
        blob = stores.add_ollama(
            "registry.ollama.ai/library/llama3.2/3b",
            GGUF,
            layers={
                "system": b"Be brief.",
                "params": b'{"temperature": 0.5, "stop": ["<|eot|>"], "num_gpu": 3}',
                "template": b"{{ .Prompt }}",
                "messages": b"[]",
                "license": b"MIT\nlong text",
                "projector": b"projector",
            },
            file_type="Q4_K_M",
        )
        (model,) = _models("ollama").values()
        assert model.reference == "ollama:llama3.2:3b"
        assert model.name == "llama3.2:3b"
        assert (model.path, model.bytes, model.quant) == (blob, len(GGUF), "Q4_K_M")
        assert model.system == "Be brief."
        assert model.parameters == {"temperature": 0.5, "stop": ["<|eot|>"]}
        assert model.unused == ("template", "messages")
        assert model.licence == "MIT"
        assert model.projector is not None
        assert model.projector.read_bytes() == b"projector"
        assert model.problem is None

    def test_a_model_with_an_adapter_is_not_served_without_it(self, stores: Stores) -> None:
        stores.add_ollama("registry.ollama.ai/library/tuned/latest", GGUF, layers={"adapter": b"adapter"})
        (model,) = _models("ollama").values()
        assert [path.read_bytes() for path in model.adapters] == [b"adapter"]
        assert "adapter" in (model.problem or "")

    def test_parameters_that_would_fail_requests_are_left_out(self, stores: Stores) -> None:
        parameters = {
            "temperature": 99,
            "top_p": "high",
            "top_k": True,
            "min_p": 0.1,
            "num_ctx": 4096,
            "unknown": 1,
            "stop": ["", 3, "x" * 2000, "end"],
        }
        layers = {"params": json.dumps(parameters).encode()}
        stores.add_ollama("registry.ollama.ai/library/odd/latest", GGUF, layers=layers)
        (model,) = _models("ollama").values()
        assert model.parameters == {"min_p": 0.1, "stop": ["end"]}

    @pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b'{"stop": 3}'])
    def test_parameters_of_another_form_are_none(self, stores: Stores, text: bytes) -> None:
        stores.add_ollama("registry.ollama.ai/library/odd/latest", GGUF, layers={"params": text})
        (model,) = _models("ollama").values()
        assert (model.parameters, model.problem) == ({}, None)

    @pytest.mark.parametrize(
        ("path", "reference", "name"),
        [
            ("registry.ollama.ai/library/phi4/latest", "ollama:phi4:latest", "phi4"),
            ("registry.ollama.ai/user/model/7b-q8_0", "ollama:user/model:7b-q8_0", "user/model:7b-q8_0"),
            ("hf.co/org/tiny-GGUF/Q4_K_M", "ollama:hf.co/org/tiny-GGUF:Q4_K_M", "org/tiny-GGUF:Q4_K_M"),
            ("localhost:5000/a/b/c", "ollama:localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ],
    )
    def test_names_are_those_of_its_commands(self, stores: Stores, path: str, reference: str, name: str) -> None:
        stores.add_ollama(path, GGUF)
        (model,) = _models("ollama").values()
        assert (model.reference, model.name) == (reference, name)

    def test_broken_models_say_what_is_wrong_and_hide_no_other(self, stores: Stores) -> None:
        library = "registry.ollama.ai/library"
        stores.add_ollama(f"{library}/good/latest", GGUF)
        stores.add_ollama(f"{library}/gone/latest", GGUF + b"1").unlink()
        stores.add_ollama(f"{library}/cut/latest", GGUF + b"22").write_bytes(b"GG")
        manifests = stores.ollama / "manifests" / library
        for name, text in {
            "json": b"{",
            "tensors": json.dumps({"layers": []}).encode(),
            "evil": json.dumps(
                {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../etc"}]}
            ).encode(),
            "types": b'{"layers": 3}',
            "huge": b'{"layers": []' + b" " * 1_000_001,
        }.items():
            (manifests / name).mkdir(parents=True)
            (manifests / name / "latest").write_bytes(text)
        (manifests / ".hidden").mkdir()
        (manifests / "a b").mkdir()
        (manifests / "a b" / "latest").write_bytes(b"{}")
        found = {reference: model.problem for reference, model in _models("ollama").items()}
        assert found.pop("ollama:good:latest") is None
        broken = ("gone", "cut", "json", "tensors", "evil", "types", "huge")
        assert set(found) == {f"ollama:{name}:latest" for name in broken}
        assert "isn't there" in (found["ollama:gone:latest"] or "")
        assert "has 2 bytes" in (found["ollama:cut:latest"] or "")
        assert "can't be read" in (found["ollama:json:latest"] or "")
        assert all(problem is not None for problem in found.values())

    def test_a_pull_of_tailraces_own_is_in_its_store(self, stores: Stores) -> None:
        stores.add_ollama("registry.ollama.ai/library/phi4/latest", GGUF, folder=stores.own / "ollama")
        (model,) = _models("tailrace").values()
        assert (model.reference, model.store) == ("ollama:phi4:latest", "tailrace")

    def test_its_folders(self, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
        assert ollama_folders() == [stores.ollama]
        monkeypatch.delenv("OLLAMA_MODELS")
        assert ollama_folders()[0] == stores.home / ".ollama" / "models"
        assert Path("/usr/share/ollama/.ollama/models") in ollama_folders()


class TestLmStudio:
    def test_publisher_and_repository_are_the_hubs(self, stores: Stores) -> None:
        file = stores.add_lm_studio("org/tiny-GGUF/tiny-Q4_K_M.gguf", GGUF)
        stores.add_lm_studio("org/tiny-GGUF/mmproj-tiny-F16.gguf", b"p")
        loose = stores.add_lm_studio("loose.gguf", GGUF)
        found = _models("lm-studio")
        assert set(found) == {"hf:org/tiny-GGUF:Q4_K_M", str(loose)}
        assert found["hf:org/tiny-GGUF:Q4_K_M"].path == file
        assert found["hf:org/tiny-GGUF:Q4_K_M"].projector is not None
        assert found[str(loose)].name == "loose"

    def test_the_folder_of_its_settings(self, stores: Stores, tmp_path: Path) -> None:
        settings = stores.home / ".lmstudio" / "settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps({"downloadsFolder": str(tmp_path / "moved"), "other": 1}))
        assert lm_studio_folders()[0] == tmp_path / "moved"
        settings.write_text("{")
        assert lm_studio_folders()[0] == stores.lm_studio


class TestLlamaCache:
    def test_names_are_read_with_and_without_a_manifest(self, stores: Stores) -> None:
        stores.add_llama("ggml-org_tiny-GGUF_tiny-Q8_0.gguf", GGUF)
        stores.add_llama("ggml-org_tiny-GGUF_mmproj-tiny-Q8_0.gguf", b"p")
        stores.add_llama("org_plain_tiny-Q4_0.gguf", GGUF)
        stores.add_llama("org_my_model_x-Q4_0.gguf", GGUF)
        stores.add_llama("manifest=org=my_model=latest.json", b"{}")
        stores.add_llama("alone.gguf", GGUF)
        stores.add_llama("ggml-org_tiny-GGUF_tiny-Q4_0.gguf.downloadInProgress", GGUF)
        found = _models("llama.cpp")
        assert set(found) == {
            "hf:ggml-org/tiny-GGUF:Q8_0",
            "hf:org/plain:Q4_0",
            "hf:org/my_model:Q4_0",
            str(stores.llama / "alone.gguf"),
        }
        assert found["hf:org/my_model:Q4_0"].path == stores.llama / "org_my_model_x-Q4_0.gguf"

    def test_shards_keep_their_own_names(self, stores: Stores) -> None:
        for number in (1, 2):
            stores.add_llama(f"org_big-GGUF_Q8_0_big-{number:05}-of-00002.gguf", GGUF)
        (model,) = _models("llama.cpp").values()
        assert model.path == stores.llama / "org_big-GGUF_Q8_0_big-00001-of-00002.gguf"
        assert model.bytes == 2 * len(GGUF)

    def test_the_hubs_layout(self, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
        stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF})
        monkeypatch.setenv("LLAMA_CACHE", str(stores.hub))
        monkeypatch.setenv("HF_HUB_CACHE", str(stores.hub / "other"))
        assert set(_models("llama.cpp")) == {"hf:org/tiny:Q8_0"}

    def test_one_folder_is_read_once(self, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
        stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF})
        monkeypatch.setenv("LLAMA_CACHE", str(stores.hub))
        assert [model.store for each in read_stores() for model in each.models] == ["huggingface"]


class TestModelsFolder:
    def _names(self, folder: Path) -> dict[str, str]:
        return {model.name: str(model.path.relative_to(folder)) for model in read_models_folder(folder).models}

    def _fill(self, folder: Path, *paths: str) -> None:
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(GGUF)

    def test_models_are_called_by_their_files(self, tmp_path: Path) -> None:
        self._fill(tmp_path, "My Model.gguf", "sub/b-Q8_0.gguf", "sub/mmproj-b.gguf", "c-00002-of-00002.gguf")
        self._fill(tmp_path, "c-00001-of-00002.gguf", ".hidden.gguf", ".trash/d.gguf", "e.gguf.part", "f.txt")
        assert self._names(tmp_path) == {
            "My Model": "My Model.gguf",
            "b-Q8_0": "sub/b-Q8_0.gguf",
            "c": "c-00001-of-00002.gguf",
        }

    def test_equal_names_have_their_folder_in_front(self, tmp_path: Path) -> None:
        self._fill(tmp_path, "a/model.gguf", "b/Model.gguf", "model.gguf", "other.gguf")
        assert self._names(tmp_path) == {
            "a/model": "a/model.gguf",
            "b/Model": "b/Model.gguf",
            "model": "model.gguf",
            "other": "other.gguf",
        }

    def test_names_that_differ_in_case_alone_keep_their_ending(self, tmp_path: Path) -> None:
        self._fill(tmp_path, "x.gguf", "X.GGUF")
        if len(list(tmp_path.iterdir())) == 2:  # The file system may fold case.
            assert set(self._names(tmp_path)) == {"x.gguf", "X.GGUF"}

    def test_links_are_followed_once(self, tmp_path: Path) -> None:
        folder = tmp_path / "models"
        self._fill(folder, "sub/a.gguf")
        self._fill(tmp_path, "outside/b.gguf")
        (folder / "loop").symlink_to(folder)
        (folder / "sub" / "up").symlink_to("..")
        (folder / "outside").symlink_to(tmp_path / "outside")
        (folder / "again").symlink_to(tmp_path / "outside")
        (folder / "broken.gguf").symlink_to("nowhere")
        (folder / "self.gguf").symlink_to("self.gguf")
        (folder / "self").symlink_to("self")
        (folder / "link.gguf").symlink_to("sub/a.gguf")
        found = self._names(folder)
        assert set(found) == {"a", "b", "link"}
        assert found["link"] == "link.gguf"

    def test_what_is_no_regular_file_is_no_model(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.gguf")
        (tmp_path / "folder.gguf").mkdir()
        self._fill(tmp_path, "folder.gguf/a.gguf")
        assert set(self._names(tmp_path)) == {"a"}

    def test_an_unreadable_folder_is_a_problem_and_hides_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._fill(tmp_path, "a/a.gguf", "b/b.gguf")
        scandir = os.scandir

        def refuse(path: Path) -> object:
            if Path(path).name == "a":  # A superuser may read every folder.
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        contents = read_models_folder(tmp_path)
        assert [model.name for model in contents.models] == ["b"]
        assert contents.problems == (f"{tmp_path / 'a'} can't be read: Permission denied",)

    def test_a_folder_that_is_not_there_is_a_problem(self, tmp_path: Path) -> None:
        assert "there is no folder" in read_models_folder(tmp_path / "none").problems[0]

    @pytest.mark.parametrize("name", ["/" + "a" * 300, "~no-such-user-here/models"])
    def test_a_path_that_the_system_refuses_is_a_problem(self, name: str) -> None:
        assert "can't be read" in read_models_folder(Path(name)).problems[0]

    def test_a_bound_of_files_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folder_walk, "MAX_FILES", 3)
        self._fill(tmp_path, *(f"{number}.gguf" for number in range(5)))
        contents = read_models_folder(tmp_path)
        assert len(contents.models) == 3
        assert "too many files" in contents.problems[0]

    def test_depth_is_bounded(self, tmp_path: Path) -> None:
        self._fill(tmp_path, "/".join("d" * 12) + "/in.gguf", "/".join("e" * 13) + "/out.gguf")
        assert set(self._names(tmp_path)) == {"in"}

    def test_ten_thousand_files(self, tmp_path: Path) -> None:
        for number in range(10_000):
            (tmp_path / f"m{number}-00001-of-99999.gguf").touch()
        assert len(read_models_folder(tmp_path).models) == 10_000

    def test_names_with_control_characters_are_left_out(self, tmp_path: Path) -> None:
        self._fill(tmp_path, "a\n.gguf", "b\x1b[31m.gguf", "c.gguf")
        assert set(self._names(tmp_path)) == {"c"}
