"""Describes the machine in a report, so that its figures can be compared elsewhere."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from tailrace import __version__
from tailrace.diagnosis.machine_sample import read_machine
from tailrace.machine.topology import read_topology

_FEATURES = ("amx_int8", "avx512_vnni", "avx512_bf16", "avx512f", "avx_vnni", "avx2", "asimddp", "sve")


def describe(model: Path, threads: int) -> dict[str, str]:
    """The machine, the versions and the settings that all sides share, by label."""
    return {
        "CPU": _processor(),
        "cores that may be used": str(len(read_topology().usable_cores)),
        "engine threads": str(threads),
        "model": f"{model.name}, {model.stat().st_size / 1e6:.0f} MB",
        "tailrace": f"{__version__} {_commit()}".strip(),
        "llama.cpp": f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}",
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def stolen_seconds(root: Path = Path("/")) -> float:
    """CPU seconds, of all CPUs since the start, that other virtual machines had while this one could compute; 0 where
    that isn't known.
    """
    return sum(cpu.stolen for cpu in read_machine((), os.getpid(), root).cpus.values())


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:  # not on Linux
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    shown = [feature for feature in _FEATURES if feature in known]
    return f"{name[1] if name else platform.machine()} ({', '.join(shown)})"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
