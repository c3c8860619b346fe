"""What commands print is what they were told to print."""

from __future__ import annotations

import sys

import pytest

from tailrace.cli import app, console_output
from tailrace.cli.app import CONFIGURATION_EXIT


def test_an_address_in_an_error_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tailrace", "worker", "--listen", "127.0.0.1:-1"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == CONFIGURATION_EXIT
    assert "--listen is 127.0.0.1:-1: write it" in capsys.readouterr().err


def test_words_between_colons_are_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    console_output.stdout().print("model:fire:Q4")
    console_output.stderr().print("model:fire:Q4")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("model:fire:Q4\n", "model:fire:Q4\n")
