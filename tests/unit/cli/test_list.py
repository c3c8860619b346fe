"""The commands list and show, as a user sees them: the models of all stores, their facts, errors and exit codes."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_files import STRING, UINT32, pair, text, tiny_gguf, write_bert
from model_stores import Stores
from tailrace.cli import app, console_output, model_rows
from tailrace.engine.kernels import format_coverage
from tailrace.machine.memory_fit import Memory

#: Runs the command with these words; its exit code, what it wrote to stdout and to stderr.
Run = Callable[..., tuple[int, str, str]]

GB = 1_000_000_000
TEMPLATE = "{% for tool in tools %}{{ tool }}{% endfor %}{{ messages }}<think></think>"
CHAT = tiny_gguf(extra=(pair("tokenizer.chat_template", STRING, text(TEMPLATE)),))
#: Four layers of 2,048 numbers for K and V each: 16 kB a token.
LARGE = tiny_gguf(
    extra=tuple(
        pair(f"llama.{key}", UINT32, struct.pack("<I", value))
        for key, value in {
            "block_count": 4,
            "attention.head_count": 8,
            "embedding_length": 1024,
            "context_length": 131_072,
        }.items()
    )
)
WIDE = ["MODEL", "SIZE", "QUANT", "CONTEXT", "FITS", "KERNELS", "WORKS", "FAMILY", "PARAMS", "STORE"]


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(model_rows, "read_memory", lambda: Memory(total=4 * GB, available=3 * GB))
    monkeypatch.setattr(format_coverage, "cpu_tiers", lambda: ["avx512-vnni"])
    return Stores(tmp_path).use(monkeypatch)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tailrace", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return run


def _rows(run: Run, *words: str) -> dict[str, dict[str, Any]]:
    """The rows of the list as JSON, by reference."""
    code, out, _ = run("list", "--json", *words)
    assert code == 0
    return {row["reference"]: row for row in json.loads(out)}


def _fill(stores: Stores) -> None:
    stores.add_own("tiny", "tiny.gguf", tiny_gguf())
    stores.add_hub("org/tiny-GGUF", {"tiny-UD-Q4_K_XL.gguf": CHAT})
    stores.add_ollama("registry.ollama.ai/library/llama3.2/3b", tiny_gguf() + b"3", layers={"template": b"{{ . }}"})
    stores.add_lm_studio("org/tiny-GGUF/tiny-Q8_0.gguf", tiny_gguf())
    stores.add_llama("ggml-org_tiny-GGUF_tiny-F16.gguf", tiny_gguf())


def test_no_models_says_how_to_get_one_and_where_it_looked(run: Run, stores: Stores) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert "tailrace pull" in out
    for folder in (stores.own, stores.hub, stores.ollama, stores.lm_studio, stores.llama):
        assert str(folder) in out
    assert _rows(run) == {}


def test_the_models_of_all_stores(run: Run, stores: Stores) -> None:
    _fill(stores)
    code, out, err = run("list")
    assert (code, err) == (0, "")
    heading, *rows = out.splitlines()
    assert heading.split() == WIDE
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("tiny", "tailrace"),
        ("hf:org/tiny-GGUF:UD-Q4_K_XL", "huggingface"),
        ("ollama:llama3.2:3b", "ollama"),
        ("hf:org/tiny-GGUF:Q8_0", "lm-studio"),
        ("hf:ggml-org/tiny-GGUF:F16", "llama.cpp"),
    ]
    size = len(tiny_gguf())
    facts = [str(size), "B", "Q4_K_M", "2k", "yes", "no", "chat", "tools", "llama", "0M"]
    assert rows[0].split() == ["tiny", *facts, "tailrace"]


def test_every_reference_of_the_list_can_be_shown(run: Run, stores: Stores) -> None:
    _fill(stores)
    for reference, row in _rows(run).items():
        code, out, err = run("show", reference, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["path"] == row["path"]
        assert run("show", reference)[0] == 0


def test_a_narrow_terminal_gets_two_lines_a_model(run: Run, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(stores)
    monkeypatch.setattr(console_output, "PIPE_WIDTH", 80)
    lines = run("list")[1].splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line for line in lines if line[0] != " "] == list(_rows(run))
    assert lines[3].split(" · ")[1:4] == ["UD-Q4_K_XL", "2k context", "fits"]


@pytest.mark.parametrize(
    ("words", "references"),
    [
        (("ORG/tiny",), {"hf:org/tiny-GGUF:UD-Q4_K_XL", "hf:org/tiny-GGUF:Q8_0", "hf:ggml-org/tiny-GGUF:F16"}),
        (("--store", "ollama"), {"ollama:llama3.2:3b"}),
        (("--store", "ollama", "--store", "tailrace"), {"ollama:llama3.2:3b", "tiny"}),
        (("q8", "--store", "lm-studio"), {"hf:org/tiny-GGUF:Q8_0"}),
        (("nothing",), set()),
    ],
)
def test_text_and_stores_filter(run: Run, stores: Stores, words: tuple[str, ...], references: set[str]) -> None:
    _fill(stores)
    assert set(_rows(run, *words)) == references


def test_an_unknown_store_lists_the_known_ones(run: Run) -> None:
    code, _, err = run("list", "--store", "docker")
    assert code == 2
    assert "docker: name tailrace, folder, huggingface, ollama, lm-studio, llama.cpp" in err


def test_a_folder_of_models(run: Run, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "My Model.gguf").write_bytes(tiny_gguf())
    assert set(_rows(run, "--models-dir", str(folder))) == {str(folder / "My Model.gguf")}
    monkeypatch.setenv("TAILRACE_MODELS_DIR", str(folder))
    assert set(_rows(run, "--store", "folder")) == {str(folder / "My Model.gguf")}
    monkeypatch.setenv("TAILRACE_MODELS_DIR", str(folder / "none"))
    code, _, err = run("list")
    assert code == 0
    assert "folder: there is no folder" in err


def test_an_unusable_file_of_a_folder_is_named_once(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"nothing")
    _, _, err = run("list", "--models-dir", str(tmp_path))
    assert err.count(str(broken)) == 1
    assert f"{broken} isn't a whole GGUF file" in err


def test_a_broken_model_does_not_hide_the_others(run: Run, stores: Stores) -> None:
    stores.add_own("tiny", "tiny.gguf", tiny_gguf())
    broken = stores.add_own("broken", "b.gguf", b"nothing")
    stores.add_ollama("registry.ollama.ai/library/gone/latest", b"x").unlink()
    stores.add_hub("org/part", {"a-Q8_0-00001-of-00002.gguf": tiny_gguf()})
    code, out, err = run("list")
    assert code == 0
    unusable = {line.split()[0] for line in out.splitlines() if "unusable" in line}
    assert unusable == {"broken", "ollama:gone:latest", "hf:org/part:Q8_0"}
    assert f"broken: {broken} isn't a whole GGUF file" in err
    assert "hf:org/part:Q8_0: shard 2 of 2 is missing" in err
    assert [row["error"] is None for row in _rows(run).values()] == [False, True, False, False]


def test_absurd_sizes_hide_no_other_model(run: Run, stores: Stores) -> None:
    """Numbers that no JSON or cache can hold, and nesting that a parser can't follow."""
    stores.add_own("tiny", "tiny.gguf", tiny_gguf())
    huge = tiny_gguf().replace(struct.pack("<2Q", 6, 4), struct.pack("<2Q", 2**63, 2**63))
    assert huge != tiny_gguf()
    stores.add_own("huge", "a.gguf", huge)
    numbers = ("block_count", "attention.head_count", "attention.key_length", "embedding_length", "context_length")
    pairs = (pair(f"llama.{key}", 10, struct.pack("<Q", 2**64 - 1)) for key in numbers)
    stores.add_own("numbers", "a.gguf", tiny_gguf(extra=tuple(pairs)))
    pairs = (pair(f"llama.{key}", 5, struct.pack("<i", -5)) for key in numbers)
    stores.add_own("negative", "a.gguf", tiny_gguf(extra=tuple(pairs)))
    deep = b'{"layers": [], "x": ' + b"[" * 400_000 + b"]" * 400_000 + b"}"
    stores.add_ollama("registry.ollama.ai/library/deep/latest", tiny_gguf(), layers={"params": deep})
    (stores.ollama / "manifests" / "registry.ollama.ai" / "library" / "deep" / "other").write_bytes(deep)
    (stores.home / ".lmstudio").mkdir()
    (stores.home / ".lmstudio" / "settings.json").write_bytes(deep)
    for _ in range(2):  # The second time from the cache.
        rows = _rows(run)
        assert set(rows) == {"tiny", "huge", "numbers", "negative", "ollama:deep:latest", "ollama:deep:other"}
        assert rows["tiny"]["error"] is None
        assert rows["huge"]["error"] is not None
        assert rows["ollama:deep:latest"]["error"] is None
        assert rows["ollama:deep:other"]["error"] is not None
        assert run("list")[0] == 0
    for name in ("tiny", "numbers", "negative"):
        assert run("show", name)[0] == 0


def test_a_damaged_cache_of_headers_is_made_anew(run: Run, stores: Stores) -> None:
    stores.add_own("tiny", "tiny.gguf", tiny_gguf())
    first = _rows(run)
    (cache,) = stores.cache.glob("tailrace/headers.msgpack")
    for damage in (b"", b"\xff\xff", cache.read_bytes()[:-3]):
        cache.write_bytes(damage)
        assert _rows(run) == first


def test_an_unwritable_cache_is_no_error(run: Run, stores: Stores) -> None:
    stores.add_own("tiny", "tiny.gguf", tiny_gguf())
    stores.cache.mkdir()
    (stores.cache / "tailrace").write_bytes(b"a file where the folder should be")
    assert set(_rows(run)) == {"tiny"}


def test_a_changed_file_is_read_again(run: Run, stores: Stores) -> None:
    path = stores.add_own("tiny", "tiny.gguf", tiny_gguf())
    assert _rows(run)["tiny"]["chat_template"] is False
    path.write_bytes(CHAT)
    assert _rows(run)["tiny"]["chat_template"] is True


def test_headers_are_read_once(run: Run, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        stores.add_own(f"m{number}", "a.gguf", CHAT)
    first = _rows(run)

    def fail(*_: object) -> None:
        raise AssertionError("a header was read again")

    monkeypatch.setattr("tailrace.models.header_cache.read_header", fail)
    assert _rows(run) == first


def test_what_works(run: Run, stores: Stores, tmp_path: Path) -> None:
    fill_keys = (pair("tokenizer.ggml.fim_pre_token_id", UINT32, struct.pack("<I", 1)),)
    stores.add_own("chat", "a.gguf", CHAT)
    stores.add_own("plain", "a.gguf", tiny_gguf(extra=fill_keys))
    stores.add_own("bert", "a.gguf", write_bert(tmp_path / "bert.gguf").read_bytes())
    rank = (pair("llama.pooling_type", UINT32, struct.pack("<I", 4)),)
    stores.add_own("rerank", "a.gguf", tiny_gguf(extra=rank))
    stores.add_own("clip", "a.gguf", tiny_gguf(extra=(pair("general.type", STRING, text("mmproj")),)))
    rows = _rows(run)
    works = {
        name: {key for key, value in row["works"].items() if value is True} | {row["works"]["tools"]}
        for name, row in rows.items()
    }
    assert works == {
        "chat": {"text", "thinking", "template"},
        "plain": {"text", "infill", "prompt"},
        "bert": {"embeddings", "none"},
        "rerank": {"rerank", "none"},
        "clip": {"none"},
    }
    assert "no language model" in rows["clip"]["error"]


def test_kernels_by_the_formats_of_weights(
    run: Run, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    q4_0, f32, f16 = 2, 0, 1
    monkeypatch.setattr(format_coverage, "cpu_tiers", lambda: ["avx512-vnni", "avx2"])
    assert format_coverage.kernel_coverage({q4_0: 100}, "on") == ("yes", 1.0)
    assert format_coverage.kernel_coverage({f16: 100}, "on") == ("yes", 1.0)
    assert format_coverage.kernel_coverage({f16: 100}, "avx2") == ("no", 0.0)
    assert format_coverage.kernel_coverage({q4_0: 50, f32: 50}, "on") == ("partly", 0.5)
    assert format_coverage.kernel_coverage({f32: 100}, "on") == ("no", 0.0)
    assert format_coverage.kernel_coverage({q4_0: 100}, "off") == ("no", 0.0)
    monkeypatch.setattr(format_coverage, "cpu_tiers", lambda: [])
    assert format_coverage.kernel_coverage({q4_0: 100}, "on") == ("no", 0.0)


def test_whether_a_model_fits(run: Run, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stores.add_own("large", "a.gguf", LARGE)
    with path.open("r+b") as file:
        file.truncate(GB)
    row = _rows(run)["large"]
    assert row["fits"] == "smaller context"
    assert 50_000 < row["fitting_context"] < 131_072
    with path.open("r+b") as file:
        file.truncate(10 * GB)
    assert _rows(run)["large"]["fits"] == "no"
    monkeypatch.setattr(model_rows, "read_memory", lambda: Memory(total=40 * GB, available=30 * GB))
    row = _rows(run)["large"]
    assert (row["fits"], row["fitting_context"]) == ("yes", 131_072)


def test_show_names_what_is_not_used(run: Run, stores: Stores) -> None:
    stores.add_ollama(
        "registry.ollama.ai/library/llava/latest",
        CHAT,
        layers={
            "template": b"{{ .Prompt }}",
            "system": b"Be brief.",
            "params": b'{"temperature": 0.5}',
            "license": b"MIT",
            "projector": b"p",
        },
    )
    code, out, _ = run("show", "llava")
    assert code == 0
    for words in ("Be brief.", "temperature=0.5", "MIT", "projector isn't used", "template, in Go"):
        assert words in out


def test_control_characters_of_a_file_do_not_reach_the_terminal(run: Run, stores: Stores) -> None:
    name = pair("general.name", STRING, text("\x1b[31mred\n\u202e"))
    layers = {"system": b"\x1b[2J", "license": b"\x1b]0;title\x07"}
    stores.add_ollama("registry.ollama.ai/library/evil/latest", tiny_gguf(extra=(name,)), layers=layers)
    for words in (("list",), ("show", "evil")):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert r"\x1b[31mred" in out


def test_show_of_a_path(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "Some Model.gguf"
    path.write_bytes(CHAT)
    code, out, _ = run("show", str(path), "--json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["name"], shown["store"], shown["reference"]) == ("Some Model", None, str(path))
    assert shown["metadata"]["general.architecture"] == "llama"
    assert shown["formats"] == {"F32": 1.0}


def test_show_of_a_model_that_is_not_here_says_how_to_get_it(run: Run) -> None:
    code, out, err = run("show", "hf:org/none")
    assert (code, out) == (1, "")
    assert "tailrace pull hf:org/none" in err
