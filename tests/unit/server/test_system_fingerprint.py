"""``system_fingerprint`` stays the same after a restart and changes with everything that changes replies."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tailrace.protocol import ModelInfo
from tailrace.server.system_fingerprint import file_identity, system_fingerprint
from tailrace.settings import Settings

INFO = ModelInfo(
    architecture="llama",
    description="a",
    parameters=1,
    size_bytes=2,
    context=3,
    context_trained=4,
    kv_cells=5,
    parallel=6,
    chat_template="x",
    bos_token="",
    eos_token="",
)
SETTINGS = Settings()


def made(settings: Settings = SETTINGS, info: ModelInfo = INFO, file: str = "f") -> str:
    return system_fingerprint(settings, info, file)


def test_its_form() -> None:
    assert made().startswith("fp_")
    assert len(made()) == 13


@pytest.mark.parametrize(
    "changed",
    [
        {"port": 1},
        {"host": "0.0.0.0"},
        {"api_key": "k"},
        {"alias": "other"},
        {"log_level": "debug"},
        {"responses_mb": 0},
        {"http_cpus": "0"},
    ],
    ids=str,
)
def test_settings_that_no_reply_depends_on_leave_it(changed: dict[str, object]) -> None:
    assert made(msgspec.structs.replace(SETTINGS, **changed)) == made()


@pytest.mark.parametrize(
    "changed",
    [
        {"ctx": 4096},
        {"kernels": "off"},
        {"cache_type_k": "q8_0"},
        {"cache_type_v": "q4_0"},
        {"weights": "q8_0"},
        {"speculate": "off"},
        {"reasoning": "inline"},
        {"gpu_layers": 0},
    ],
    ids=str,
)
def test_settings_that_replies_depend_on_change_it(changed: dict[str, object]) -> None:
    assert made(msgspec.structs.replace(SETTINGS, **changed)) != made()


def test_another_model_changes_it() -> None:
    assert made(file="g") != made()
    assert made(info=msgspec.structs.replace(INFO, chat_template="y")) != made()


def test_memory_that_happens_to_be_free_leaves_it() -> None:
    assert made(info=msgspec.structs.replace(INFO, context=9, kv_cells=9, parallel=9)) == made()


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    one, same, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    one.write_bytes(b"x" * 1000)
    same.write_bytes(b"x" * 1000)
    other.write_bytes(b"y" * 1000)
    assert file_identity(one) == file_identity(same) != file_identity(other)
    assert file_identity(tmp_path / "gone") == file_identity(None) == ""
