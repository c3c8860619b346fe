"""Which file on this machine a reference means, in all stores, and the errors for what isn't here."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_files import split, tiny_gguf, write_bert
from model_stores import Stores
from tailrace.errors import ModelError
from tailrace.models.model_reference import ModelFile, NotHere, locate_model
from tailrace.models.reference import HubReference, OllamaReference
from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL

GGUF = tiny_gguf()


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    stores = Stores(tmp_path / "stores").use(monkeypatch)
    stores.add_own("kept", "Kept-Q8.gguf", b"x")
    return stores


@pytest.fixture
def store(stores: Stores) -> Store:
    return Store()


class TestPaths:
    def test_a_path(self, store: Store, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "My Model.Q4.gguf"
        file.write_bytes(b"x")
        expected = ModelFile(path=file, name="My Model.Q4")
        assert locate_model(str(file), store) == expected
        monkeypatch.chdir(tmp_path)
        assert locate_model("My Model.Q4.gguf", store) == expected
        (stores.home / "a.gguf").symlink_to(file)
        assert locate_model("~/a.gguf", store).path == stores.home / "a.gguf"

    def test_a_missing_path_lists_the_models_that_are_here(self, stores: Stores, tmp_path: Path) -> None:
        stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF})
        with pytest.raises(ModelError) as caught:
            locate_model(str(tmp_path / "no.gguf"))
        assert f"there is no file {tmp_path / 'no.gguf'}" in str(caught.value)
        assert "Models here: kept, hf:org/tiny:Q8_0" in str(caught.value)

    def test_a_file_that_is_no_gguf(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"x")
        with pytest.raises(ModelError, match="it is no GGUF file"):
            locate_model(str(tmp_path / "model.safetensors"), store)

    @pytest.mark.parametrize("path", ["/" + "a" * 300, "./" + "a" * 300 + ".gguf", "~no-such-user-here/a.gguf"])
    def test_a_path_that_the_system_refuses(self, store: Store, path: str) -> None:
        with pytest.raises(ModelError, match="can't be read"):
            locate_model(path, store)

    def test_a_gguf_file_needs_no_ending(self, stores: Stores) -> None:
        """Ollama's have none."""
        blob = stores.add_ollama("registry.ollama.ai/library/phi4/latest", GGUF)
        assert locate_model(str(blob)).path == blob

    def test_an_image_part_is_no_model(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "mmproj-F16.gguf").write_bytes(GGUF)
        with pytest.raises(ModelError, match="image or audio part"):
            locate_model(str(tmp_path / "mmproj-F16.gguf"), store)

    def test_the_only_model_of_a_folder(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "org" / "repo"
        folder.mkdir(parents=True)
        with pytest.raises(ModelError, match=r"there is no \.gguf file in it"):
            locate_model(str(folder), store)
        (folder / "a.gguf").write_bytes(GGUF)
        (folder / "mmproj.gguf").write_bytes(GGUF)
        assert locate_model(str(folder), store).path == folder / "a.gguf"
        monkeypatch.chdir(tmp_path)
        assert locate_model("org/repo", store).name == "a"
        (folder / "b.gguf").write_bytes(GGUF)
        with pytest.raises(ModelError, match=r"has 2 models: name one of .*b.gguf; or serve all with: --models-dir"):
            locate_model("org/repo", store)

    def test_any_shard_of_a_hubs_cache(self, stores: Stores, tmp_path: Path) -> None:
        whole = write_bert(tmp_path / "bert.gguf")
        shards = split(whole, tmp_path, 3, "bert-Q8_0")
        snapshot = stores.add_hub("org/bert", {shard.name: shard.read_bytes() for shard in shards})
        found = locate_model(str(snapshot / shards[1].name))
        assert found == ModelFile(path=snapshot / shards[0].name, name="bert-Q8_0")
        assert locate_model("hf:org/bert").path == snapshot / shards[0].name
        (snapshot / shards[2].name).unlink()
        for reference in (str(snapshot / shards[0].name), "hf:org/bert", "org/bert:q8_0"):
            with pytest.raises(ModelError, match=r"shard 3 of 3 is missing|shard 3 is missing"):
                locate_model(reference)


class TestNames:
    @pytest.mark.parametrize("name", ["kept", "kept:latest"])
    def test_a_name_in_the_store(self, store: Store, name: str) -> None:
        assert locate_model(name, store) == ModelFile(path=store.folder / "kept" / "Kept-Q8.gguf", name="kept")

    def test_another_file_of_the_name_is_not_in_its_way(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "kept").write_bytes(b"text")
        assert locate_model("kept", store).path == store.folder / "kept" / "Kept-Q8.gguf"
        (tmp_path / "kept").write_bytes(GGUF)
        assert locate_model("kept", store).path == tmp_path / "kept"

    def test_a_model_that_can_be_fetched_says_how(self, store: Store) -> None:
        with pytest.raises(NotHere, match=f"Fetch it with: tailrace pull {STARTER_MODEL}"):
            locate_model(STARTER_MODEL, store)

    def test_an_unknown_model_lists_those_that_are_here(self, store: Store) -> None:
        with pytest.raises(ModelError) as caught:
            locate_model("unknown", store)
        assert not isinstance(caught.value, NotHere)
        assert "Models here: kept" in str(caught.value)
        assert f"tailrace pull {STARTER_MODEL}" in str(caught.value)

    @pytest.mark.parametrize("model", ["../kept", "", ".", "../../etc/passwd", "\0", "a" * 100_000])
    def test_text_that_is_no_name_is_an_error(self, store: Store, model: str) -> None:
        with pytest.raises(ModelError):
            locate_model(model, store)

    def test_no_model_is_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Stores(tmp_path).use(monkeypatch)
        with pytest.raises(ModelError, match="There are no models here"):
            locate_model("unknown")

    def test_a_name_of_the_models_folder(self, stores: Stores, tmp_path: Path) -> None:
        (tmp_path / "More-Q8_0.gguf").write_bytes(GGUF)
        assert locate_model("more-q8_0", models_dir=str(tmp_path)).path == tmp_path / "More-Q8_0.gguf"
        with pytest.raises(ModelError):
            locate_model("more-q8_0")


class TestHub:
    @pytest.mark.parametrize(
        "reference",
        [
            "hf:org/tiny:Q8_0",
            "org/tiny:q8_0",
            "ORG/Tiny:q8_0",
            "hf.co/org/tiny:Q8_0",
            "hf:org/tiny/a-Q8_0.gguf",
            "https://huggingface.co/org/tiny/resolve/main/a-Q8_0.gguf?download=true",
            "https://huggingface.co/org/tiny/blob/0f3a/a-Q8_0.gguf",
            "hf:org/tiny@main:Q8_0",
            "hf:org/tiny@v1:Q8_0",
        ],
    )
    def test_every_form_finds_the_file_of_the_cache(self, stores: Stores, reference: str) -> None:
        snapshot = stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF, "a-Q4_K_M.gguf": GGUF + b"4"})
        stores.add_hub("org/tiny", {}, branch="v1")
        found = locate_model(reference)
        assert found.path == snapshot / "a-Q8_0.gguf"
        assert found.name == "org/tiny:Q8_0"

    def test_a_quantisation_is_chosen_among_those_that_are_here(self, stores: Stores) -> None:
        snapshot = stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF, "a-Q4_K_M.gguf": GGUF + b"4", "a-Q2_K.gguf": b"2"})
        assert locate_model("hf:org/tiny").path == snapshot / "a-Q4_K_M.gguf"
        assert locate_model("hf:org/tiny", memory=1).path == snapshot / "a-Q2_K.gguf"

    def test_another_revision_is_not_here(self, stores: Stores) -> None:
        stores.add_hub("org/tiny", {"a-Q8_0.gguf": GGUF})
        with pytest.raises(NotHere, match="tailrace pull hf:org/tiny@v2"):
            locate_model("hf:org/tiny@v2")
        with pytest.raises(NotHere, match="tailrace pull hf:org/tiny@v2:Q8_0"):
            locate_model("hf:org/tiny@v2:Q8_0")

    @pytest.mark.parametrize("place", ["lm-studio", "llama.cpp", "ollama"])
    def test_other_stores_have_the_hubs_models_too(self, stores: Stores, place: str) -> None:
        match place:
            case "lm-studio":
                file = stores.add_lm_studio("org/tiny/a-Q8_0.gguf", GGUF)
            case "llama.cpp":
                file = stores.add_llama("org_tiny_a-Q8_0.gguf", GGUF)
            case _:
                file = stores.add_ollama("hf.co/org/tiny/Q8_0", GGUF)
        assert locate_model("hf:org/tiny:Q8_0").path == file

    def test_a_quantisation_of_a_second_store_is_found(self, stores: Stores) -> None:
        stores.add_hub("org/tiny", {"a-Q4_0.gguf": GGUF})
        file = stores.add_lm_studio("org/tiny/a-Q8_0.gguf", GGUF)
        assert locate_model("hf:org/tiny:Q8_0").path == file

    def test_a_quantisation_that_is_not_here_lists_those_that_are(self, stores: Stores) -> None:
        stores.add_hub("org/tiny", {"a-Q4_0.gguf": GGUF, "a-Q8_0.gguf": GGUF})
        with pytest.raises(NotHere, match=r"it has no Q6_K; it has Q4_0 .*, Q8_0 .*tailrace pull hf:org/tiny:Q6_K"):
            locate_model("org/tiny:Q6_K")

    def test_a_repository_that_is_not_here_can_be_pulled(self, stores: Stores) -> None:
        with pytest.raises(NotHere, match="tailrace pull hf:org/tiny:Q4_K_M") as caught:
            locate_model("org/tiny:Q4_K_M")
        assert caught.value.reference == HubReference(organisation="org", repository="tiny", quant="Q4_K_M")


class TestOllama:
    @pytest.mark.parametrize("reference", ["ollama:llama3.2:3b", "llama3.2:3b", "Llama3.2:3B"])
    def test_every_form_finds_the_blob(self, stores: Stores, reference: str) -> None:
        stores.add_ollama("registry.ollama.ai/library/llama3.2/1b", GGUF)
        blob = stores.add_ollama("registry.ollama.ai/library/llama3.2/3b", GGUF + b"3", layers={"system": b"Hi."})
        found = locate_model(reference)
        assert (found.path, found.name) == (blob, "llama3.2:3b")
        assert found.found is not None
        assert found.found.system == "Hi."

    @pytest.mark.parametrize("reference", ["ollama:user/model:tag", "user/model:tag"])
    def test_a_users_model(self, stores: Stores, reference: str) -> None:
        blob = stores.add_ollama("registry.ollama.ai/user/model/tag", GGUF)
        assert locate_model(reference).path == blob

    def test_one_that_is_not_here_can_be_pulled(self, stores: Stores) -> None:
        with pytest.raises(NotHere, match=r"tailrace pull ollama:llama3\.2:3b") as caught:
            locate_model("ollama:llama3.2:3b")
        assert caught.value.reference == OllamaReference(model="llama3.2", tag="3b")

    def test_a_whole_one_of_another_store_is_taken(self, stores: Stores) -> None:
        name = "registry.ollama.ai/library/phi4/latest"
        stores.add_ollama(name, GGUF + b"1", folder=stores.own / "ollama").unlink()
        blob = stores.add_ollama(name, GGUF)
        assert locate_model("phi4").path == blob

    def test_a_broken_one_says_why(self, stores: Stores) -> None:
        stores.add_ollama("registry.ollama.ai/library/phi4/latest", GGUF).unlink()
        with pytest.raises(ModelError, match=r"ollama:phi4:latest .* isn't there"):
            locate_model("phi4")
