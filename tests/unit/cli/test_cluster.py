"""``tailrace cluster`` before Ray is imported: what is missing or can't fit is one line that says what to do."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tailrace.cli.commands import command_line
from tailrace.errors import ConfigurationError

_MODEL = 'backend = "fake"\n[models.m]\npath = "x"\n'


def _run(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(command_line(["cluster"]), ["cluster", *arguments]).exception


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "cluster.toml"


@pytest.mark.parametrize("command", ["serve", "status", "stop"])
def test_without_ray_the_extra_is_named(command: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(_MODEL, encoding="utf-8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    error = _run(command, *([str(file)] if command == "serve" else []))

    assert isinstance(error, ConfigurationError)
    assert "tailrace[cluster]" in str(error)


def test_replicas_that_do_not_fit_on_this_machine_are_refused(file: Path) -> None:
    cpus = len(os.sched_getaffinity(0))
    file.write_text(f"port = 0\n{_MODEL}replicas = {cpus + 1}\ncores = 1\n", encoding="utf-8")

    error = _run("serve", str(file))

    assert isinstance(error, ConfigurationError)
    assert "cores" in str(error)
    assert "--address" in str(error)


def test_address_that_is_taken_is_named(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        file.write_text(f"port = {port}\n{_MODEL}cores = 1\n", encoding="utf-8")

        error = _run("serve", str(file))

    assert isinstance(error, ConfigurationError)
    assert str(port) in str(error)


def test_detached_command_needs_a_ray_that_outlives_it(file: Path) -> None:
    file.write_text(_MODEL, encoding="utf-8")

    error = _run("serve", str(file), "--detach")

    assert isinstance(error, ConfigurationError)
    assert "--address" in str(error)


def test_command_line_imports_neither_ray_nor_psycopg() -> None:
    program = "import sys; from tailrace.cli.commands import command_line; command_line(['cluster', 'serve']); "
    program += "print([name for name in ('ray', 'psycopg') if name in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert shown.strip() == "[]"


@pytest.mark.parametrize("command", [("status",), ("stop",), ("status", "--address", "auto")])
def test_of_several_clusters_on_this_machine_none_is_guessed(
    command: tuple[str, ...], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    monkeypatch.setattr(services, "find_gcs_addresses", lambda: {"127.0.0.1:6390", "127.0.0.1:6380"})

    error = _run(*command)

    assert "127.0.0.1:6380, 127.0.0.1:6390: name one with --address" in str(error)
