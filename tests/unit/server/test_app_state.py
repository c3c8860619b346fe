"""The names under which the served model answers."""

from __future__ import annotations

import pytest

from tailrace.errors import ModelNotFound
from tailrace.server.app_state import Server
from tailrace.settings import Settings


@pytest.mark.parametrize("name", [None, "m", "claude-haiku-4-5", "claude-", "gpt-4"])
def test_the_models_names(name: str | None) -> None:
    Server(Settings(aliases=("claude-*", "gpt-4")), "m").check_model(name)


@pytest.mark.parametrize("name", ["", "M", "gpt-4o", "my-claude-haiku", "*"])
def test_other_names(name: str) -> None:
    with pytest.raises(ModelNotFound, match="serves 'm'"):
        Server(Settings(aliases=("claude-*", "gpt-4")), "m").check_model(name)
