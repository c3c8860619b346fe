"""Models of several shards: a user may name any of them, and sizes include all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

from model_files import hub_cache, split
from tailrace.cli.commands import command_line
from tailrace.errors import ModelError
from tailrace.models.file_fingerprint import fingerprint
from tailrace.models.model_header import read_facts, read_header
from tailrace.models.model_reference import locate_model
from tailrace.models.shards import read_shards, total_bytes
from tailrace.models.store import Store
from tailrace.serving.model_memory import model_needs
from tailrace.settings import Settings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in one file, of seven tensors."""
    path = tmp_path_factory.mktemp("whole") / "Whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_block_count(3)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_token_list(["a", "b"])
    for number in range(7):
        writer.add_tensor(f"blk.{number}.attn_q.weight", np.full((64, 64 + number), number, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def made(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return split(whole, tmp_path_factory.mktemp("made"), 3)


@pytest.fixture
def shards(made: list[Path], tmp_path: Path) -> list[Path]:
    """Links to the files, each of which a test may replace."""
    links = [tmp_path / path.name for path in made]
    for link, path in zip(links, made, strict=True):
        link.symlink_to(path)
    return links


@pytest.mark.parametrize("named", [0, 1, 2])
def test_any_shard_names_the_model(shards: list[Path], whole: Path, named: int) -> None:
    found = locate_model(str(shards[named]))
    assert (found.path, found.name) == (shards[0], "model")
    assert read_shards(shards[named]).paths == tuple(shards)
    assert read_facts(shards[named]) == read_facts(whole)
    assert read_header(shards[named]).tensors == read_header(whole).tensors


def test_a_link_of_the_hubs_cache_keeps_its_name(whole: Path, tmp_path: Path) -> None:
    links = hub_cache(tmp_path / "hub", split(whole, tmp_path, 2))
    for link in links:
        assert locate_model(str(link)).path == links[0]
    assert read_facts(links[0]) == read_facts(whole)
    assert total_bytes(links[0]) == sum(link.stat().st_size for link in links)
    # Of a model that is one file, too.
    (tmp_path / "own").mkdir()
    (only,) = hub_cache(tmp_path / "own", [Path(shutil.copy(links[1], tmp_path / "Own-Q8.gguf"))])
    assert locate_model(str(only)).path == only
    assert locate_model(str(only)).name == "Own-Q8"


def test_sizes_are_of_all_shards(shards: list[Path], whole: Path) -> None:
    size = sum(path.stat().st_size for path in shards)
    assert size >= whole.stat().st_size
    assert total_bytes(shards[0]) == total_bytes(shards[2]) == size
    needs, one = (model_needs(path, Settings(ctx=512)) for path in (shards[0], whole))
    assert needs.weights == size
    assert needs.kv == one.kv > 0


def test_the_store_counts_all_shards(
    made: list[Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_MODELS", str(tmp_path))
    (tmp_path / "large").mkdir()
    for path in made:
        (tmp_path / "large" / path.name).symlink_to(path)
    stored = Store().find("large")
    assert stored is not None
    size = sum(path.stat().st_size for path in made)
    assert (stored.path.name, stored.bytes) == (made[0].name, size)
    (row,) = json.loads(CliRunner().invoke(command_line(), ["list", "--json"]).stdout)
    assert row["bytes"] == size
    assert row["parameters"] == read_facts(whole).parameters


def test_shards_have_one_fingerprint_which_each_of_them_changes(shards: list[Path]) -> None:
    first = fingerprint(shards[0])
    assert fingerprint(shards[2]) == first
    longer = shards[2].read_bytes() + bytes(32)
    shards[2].unlink()
    shards[2].write_bytes(longer)
    assert fingerprint(shards[0]) != first


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_shard_is_named(shards: list[Path], missing: int) -> None:
    shards[missing].unlink()
    named = shards[2 if missing != 2 else 0]
    with pytest.raises(ModelError, match=f"shard {missing + 1} of 3 is missing: there is no .*{shards[missing].name}"):
        locate_model(str(named))


def test_a_wrong_shard_is_named(shards: list[Path], whole: Path, tmp_path: Path) -> None:
    shards[1].unlink()
    shutil.copy(shards[2], shards[1])
    with pytest.raises(ModelError, match=rf"{shards[1].name} should be shard 2 of 3, and .* it is shard 3 of 3"):
        locate_model(str(shards[0]))
    shards[1].unlink()
    shards[1].symlink_to(whole)
    with pytest.raises(ModelError, match=rf"{shards[1].name} should be shard 2 of 3, and .* it is no shard at all"):
        locate_model(str(shards[0]))
    shards[1].unlink()
    shards[1].write_bytes(b"half a downl")
    with pytest.raises(ModelError, match=rf"{shards[1].name} isn't a whole GGUF file"):
        locate_model(str(shards[2]))


def test_a_shard_of_another_model_is_noticed(shards: list[Path], whole: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    other = split(shards[0], tmp_path / "two", 3)
    shards[1].unlink()
    other[1].rename(shards[1])
    with pytest.raises(ModelError, match="tensors together, and the model has 7"):
        locate_model(str(shards[0]))


def test_a_shard_under_another_name_says_which_it_wants(shards: list[Path], tmp_path: Path) -> None:
    renamed = shards[1].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"is shard 2 of 3, and its name doesn't: .*-00002-of-00003\.gguf"):
        read_header(renamed)


def test_a_whole_model_may_be_called_like_a_shard(whole: Path, tmp_path: Path) -> None:
    link = tmp_path / "model-00002-of-00003.gguf"
    link.symlink_to(whole)
    assert (locate_model(str(link)).path, locate_model(str(link)).name) == (link, link.stem)
    assert total_bytes(link) == whole.stat().st_size
    assert read_facts(link) == read_facts(whole)
