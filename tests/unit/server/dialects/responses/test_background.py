"""Responses in the background end once, whatever ends them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from held_generation import HeldGeneration
from tailrace.server.dialects.responses.background import Background
from tailrace.server.dialects.responses.event_recording import Recording
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.response_object import ResponseHead
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.dialects.responses.tools import Toolset
from tailrace.server.events import Finish, TextDelta, Usage
from tailrace.server.generation import Generation


def begin(
    background: Background, ended: list[dict[str, Any]], recorded: list[Recording] | None = None
) -> tuple[str, HeldGeneration]:
    head = ResponseHead(ResponsesRequest(input="x"), Toolset(), "m", stored=True)
    generation = HeldGeneration()
    stream = ResponsesStream(head, Toolset(), summary=False, encrypted=False, comments=False, ended=ended.append)
    taken = list[Recording]() if recorded is None else recorded
    background.run(head.id, "", cast(Generation, generation), stream, taken.append)
    return head.id, generation


def test_each_end() -> None:
    async def scenario() -> None:
        background, ended, recorded = Background(), list[dict[str, Any]](), list[Recording]()
        identity, generation = begin(background, ended, recorded)
        for event in (TextDelta(0, "a"), Finish(0, "stop"), Usage(1, 2, 0)):
            generation.sink.emit(event)
        generation.done.set_result(None)
        await background.cancel(identity, "")
        cancelled, _ = begin(background, ended, recorded)
        await background.cancel(cancelled, "")
        await background.cancel(cancelled, "")
        stopped, _ = begin(background, ended, recorded)
        background.stop()
        await asyncio.sleep(0)
        assert [(one["id"], one["status"]) for one in ended] == [
            (identity, "completed"),
            (cancelled, "cancelled"),
            (stopped, "cancelled"),
        ]
        assert len(recorded) == 3
        assert all(recording.closed for recording in recorded)
        assert b"response.completed" in recorded[0].pieces[-1]

    asyncio.run(scenario())


def test_a_defect_fails_the_response_and_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        background, ended = Background(), list[dict[str, Any]]()
        identity, generation = begin(background, ended)
        generation.done.set_exception(ZeroDivisionError("here"))
        await background.cancel(identity, "")
        (response,) = ended
        assert response["status"] == "failed"
        assert response["error"]["code"] == "server_error"

    asyncio.run(scenario())
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_background_responses_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.server.dialects.responses.background.MAX_RUNNING", 2)

    async def scenario() -> None:
        background, ended = Background(), list[dict[str, Any]]()
        full = [background.full]
        first, _ = begin(background, ended)
        full.append(background.full)
        begin(background, ended)
        full.append(background.full)
        await background.cancel(first, "")
        full.append(background.full)
        assert full == [False, False, True, False]
        background.stop()

    asyncio.run(scenario())
