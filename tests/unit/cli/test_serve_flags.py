"""Flags of ``tailrace serve`` that llama-server has by other names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tailrace.cli import serve
from tailrace.cli.commands import command_line
from tailrace.errors import ConfigurationError


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Those of the command that was called last, by the settings' names."""
    seen: dict[str, Any] = {}

    def note(models: Sequence[str], given: dict[str, Any], file: Path | None) -> None:
        seen.update({name: value for name, value in given.items() if value is not None} | {"models": list(models)})
        raise ConfigurationError("enough")

    monkeypatch.setattr(serve, "served_models", note)
    return seen


@pytest.mark.parametrize(
    "line",
    [
        "-c 4096 -np 4 -t 3 -tb 6 -ngl 5 -ctk q8_0 -ctv q4_0 -a mine -sm layer -ts 3,1 -mg 1 a.gguf",
        "--ctx-size 4096 --parallel 4 --threads 3 --threads-batch 6 --n-gpu-layers 5 --cache-type-k q8_0 "
        "--cache-type-v q4_0 --alias mine --split-mode layer --tensor-split 3,1 --main-gpu 1 a.gguf",
    ],
)
def test_llama_servers_names_of_flags_are_settings(flags: dict[str, Any], line: str) -> None:
    result = CliRunner().invoke(command_line(), ["serve", *line.split()])
    assert flags == {
        "models": ["a.gguf"],
        "ctx": 4096,
        "parallel": 4,
        "threads": 3,
        "threads_prefill": 6,
        "gpu_layers": 5,
        "cache_type_k": "q8_0",
        "cache_type_v": "q4_0",
        "alias": "mine",
        "split_mode": "layer",
        "tensor_split": "3,1",
        "main_gpu": 1,
    }, result.output
