"""The names under which the served model answers, and large requests, which run beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tailrace.errors import ModelNotFound
from tailrace.server.app_state import AppState
from tailrace.settings import Settings


@pytest.mark.parametrize(
    "name", [None, "m", "M", "m:latest", "M:latest", "GPT-4", "claude-haiku-4-5", "claude-", "gpt-4"]
)
def test_the_models_names(name: str | None) -> None:
    AppState.of_one(Settings(aliases=("claude-*", "gpt-4")), "m").models.resolve(name)


@pytest.mark.parametrize("name", ["", "gpt-4o", "my-claude-haiku", "*"])
def test_other_names(name: str) -> None:
    with pytest.raises(ModelNotFound, match="serves 'm'"):
        AppState.of_one(Settings(aliases=("claude-*", "gpt-4")), "m").models.resolve(name)


# Large requests


def test_a_small_request_is_prepared_at_once() -> None:
    async def check() -> int:
        return await AppState.of_one(Settings(), "m").run_large(threading.get_ident, 1000)

    assert asyncio.run(check()) == threading.get_ident()


def test_a_large_one_is_prepared_while_the_loop_goes_on() -> None:
    async def check() -> None:
        app = AppState.of_one(Settings(), "m")
        goes_on = threading.Event()

        def make() -> int:
            assert goes_on.wait(30), "the loop waits for the prompt"
            return threading.get_ident()

        made = asyncio.ensure_future(app.run_large(make, 10_000_000))
        await asyncio.sleep(0)
        goes_on.set()
        assert await made != threading.get_ident()

    asyncio.run(check())


def test_a_few_large_ones_run_at_once() -> None:
    async def check() -> int:
        app = AppState.of_one(Settings(), "m")
        running, most = 0, 0
        lock, third = threading.Lock(), threading.Event()

        def make() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            third.wait(0.05)
            with lock:
                running -= 1

        await asyncio.gather(*(app.run_large(make, 10_000_000) for _ in range(8)))
        return most

    assert asyncio.run(check()) <= 2


def test_what_is_refused_there_is_refused() -> None:
    async def check() -> None:
        def make() -> None:
            raise ValueError("refused")

        await AppState.of_one(Settings(), "m").run_large(make, 10_000_000)

    with pytest.raises(ValueError, match="refused"):
        asyncio.run(check())
