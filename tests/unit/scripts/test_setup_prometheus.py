"""Where Prometheus can't be had, the message says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

import setup_prometheus
from setup_pip import SetupError


def test_programs_on_the_path_or_unpacked_ones_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_prometheus, "FOLDER", tmp_path / "unpacked")
    assert not setup_prometheus.is_ready(str(tmp_path))
    (tmp_path / "unpacked" / "usr" / "bin").mkdir(parents=True)
    for name in setup_prometheus.PROGRAMS:
        (tmp_path / "unpacked" / "usr" / "bin" / name).touch()
    assert setup_prometheus.is_ready(str(tmp_path))


def test_without_apt_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="sudo apt install prometheus"):
        setup_prometheus.unpack()
