"""The layers with a sliding window, as llama.cpp takes them from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter

from tailrace.models.attention_windows import attention_windows
from tailrace.models.model_header import read_header


def windows(
    folder: Path, architecture: str, window: int | None, pattern: int | list[bool] | None = None, layers: int = 6
) -> tuple[int, ...]:
    """Of a file that says this; None: it doesn't."""
    writer = GGUFWriter(folder / "m.gguf", architecture)
    if window is not None:
        writer.add_sliding_window(window)
    key = f"{architecture}.attention.sliding_window_pattern"
    if isinstance(pattern, list):
        writer.add_array(key, pattern)
    elif pattern is not None:
        writer.add_uint32(key, pattern)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return attention_windows(read_header(folder / "m.gguf"), layers)


@pytest.mark.parametrize(
    ("architecture", "window", "found"),
    [
        ("gemma3", 512, (512, 512, 512, 512, 512, 0)),
        ("gemma2", None, (4096, 0, 4096, 0, 4096, 0)),
        ("gpt-oss", 128, (128, 0, 128, 0, 128, 0)),
        ("cohere2moe", 64, (0, 64, 64, 64, 0, 64)),
        ("llama4", 64, (8192, 8192, 8192, 0, 8192, 8192)),
        ("gemma3", None, (0,) * 6),
        ("gemma3", 0, (0,) * 6),
        ("phi3", 64, (0,) * 6),
        ("llama", 64, (0,) * 6),
    ],
)
def test_the_pattern_of_an_architecture(
    tmp_path: Path, architecture: str, window: int | None, found: tuple[int, ...]
) -> None:
    assert windows(tmp_path, architecture, window) == found


def test_the_pattern_of_a_file(tmp_path: Path) -> None:
    assert windows(tmp_path, "gemma3", 512, 2) == (512, 0, 512, 0, 512, 0)
    assert windows(tmp_path, "gemma3", 512, 0) == (512,) * 6
    assert windows(tmp_path, "gemma4", 512, [True, True, False, True]) == (512, 512, 0, 512, 0, 0)
    assert windows(tmp_path, "gemma3", 512, [False, True], layers=2) == (0, 512)
