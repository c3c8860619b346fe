"""Where PostgreSQL can't be had, the message says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

import setup_postgres
from setup_pip import SetupError


def test_installed_and_unpacked_programs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_postgres, "FOLDER", tmp_path / "unpacked")
    for root in (tmp_path, tmp_path / "unpacked"):
        assert not setup_postgres.is_ready(str(tmp_path), tmp_path)
        programs = root / "usr" / "lib" / "postgresql" / "15" / "bin"
        programs.mkdir(parents=True)
        for name in setup_postgres.PROGRAMS:
            (programs / name).touch()
        assert setup_postgres.is_ready(str(tmp_path), tmp_path)
        for name in setup_postgres.PROGRAMS:
            (programs / name).unlink()


def test_without_apt_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="sudo apt install postgresql"):
        setup_postgres.unpack()
