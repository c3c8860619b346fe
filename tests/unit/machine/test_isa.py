"""Instruction sets, and the formats that llama.cpp repacks on them, of recorded machines."""

from __future__ import annotations

from pathlib import Path

from recorded_machines import expand
from tailrace.machine.isa import read_isa


def test_instruction_sets_and_the_formats_that_are_repacked_on_them(tmp_path: Path) -> None:
    desktop = read_isa(expand("desktop-8", tmp_path / "1"))
    assert desktop.sets == ("AVX", "F16C", "FMA", "AVX2")
    assert desktop.formats == ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")
    server = read_isa(expand("gpu-server", tmp_path / "2"))
    assert {"AVX-512 VNNI", "AMX INT8", "AMX BF16"} <= set(server.sets)
    assert {"Q4_1", "Q8_0", "Q6_K", "Q2_K"} <= set(server.formats)
    board = read_isa(expand("arm-big-little", tmp_path / "3"))
    assert board.sets == ("NEON", "DOTPROD")
    assert "Q8_0" in board.formats
    assert read_isa(tmp_path).sets == ()
