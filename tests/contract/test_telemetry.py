"""llama-server's figures on OpenAI's routes: where they are asked for, and only there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openai_wire import ask, chat
from servers import ServerProcess

FIGURES = {
    "cache_n",
    "prompt_n",
    "prompt_ms",
    "prompt_per_token_ms",
    "prompt_per_second",
    "predicted_n",
    "predicted_ms",
    "predicted_per_token_ms",
    "predicted_per_second",
}


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.decode().split("\n\n") if line.startswith("data: {")]


def post(server: ServerProcess, route: str, **fields: Any) -> Any:
    body = chat("<say>okay</say>", **fields) if "chat" in route else {"prompt": "<say>okay</say>", **fields}
    return ask(server.port, "POST", route, body)


def test_responses_have_them_too(slow: ServerProcess) -> None:
    body: dict[str, Any] = {"input": "v" * 150 + "<say>okay</say>", "store": False}
    asked = {"timings_per_token": True, "return_progress": True}
    assert "timings" not in ask(slow.port, "POST", "/v1/responses", body).json()
    assert set(ask(slow.port, "POST", "/v1/responses", {**body, **asked}).json()["timings"]) == FIGURES
    raw = ask(slow.port, "POST", "/v1/responses", {**body, **asked, "stream": True}).body.decode()
    told = [json.loads(block.partition("data: ")[2]) for block in raw.split("\n\n") if "data: {" in block]
    reports = [event for event in told if "prompt_progress" in event]
    assert {event["type"] for event in reports} == {"response.in_progress"}
    assert reports[-1]["prompt_progress"]["processed"] == reports[-1]["prompt_progress"]["total"]
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    assert [event["timings"]["predicted_n"] for event in deltas] == [1, 2, 3, 4]
    assert told[-1]["type"] == "response.completed"
    assert told[-1]["timings"]["predicted_n"] == 5
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    refused = ask(slow.port, "POST", "/v1/responses", {**body, **asked, "background": True, "store": True})
    assert refused.json()["error"]["param"] == "timings_per_token"


ROUTES = ["/v1/chat/completions", "/v1/completions"]


@pytest.mark.parametrize("route", ROUTES)
def test_timings_on_request(scripted: ServerProcess, route: str) -> None:
    assert "timings" not in post(scripted, route).json()
    whole = post(scripted, route, timings_per_token=True).json()
    assert set(whole["timings"]) == FIGURES
    assert whole["timings"]["predicted_n"] == whole["usage"]["completion_tokens"] == 5
    assert whole["timings"]["prompt_n"] + whole["timings"]["cache_n"] == whole["usage"]["prompt_tokens"]
    assert all("timings" not in event for event in events(post(scripted, route, stream=True).body))
    first, *rest = events(
        post(scripted, route, stream=True, timings_per_token=True, stream_options={"include_usage": True}).body
    )
    assert "timings" not in first
    assert [event["timings"]["predicted_n"] for event in rest] == [1, 2, 3, 4, 5, 5]
    assert rest[-1]["choices"] == []


@pytest.mark.parametrize("route", ROUTES)
def test_progress_on_request(slow: ServerProcess, route: str) -> None:
    """64 prompt tokens a step, of which the first report knows none."""
    body: dict[str, Any] = {"stream": True, "return_progress": True}
    if "chat" in route:
        body["messages"] = [{"role": "user", "content": f"Progress of {route}" + "x" * 200 + "<say>a</say>"}]
    else:
        body["prompt"] = f"Progress of {route}" + "y" * 200 + "<say>a</say>"
    told = events(ask(slow.port, "POST", route, body).body)
    reports = [event["prompt_progress"] for event in told if "prompt_progress" in event]
    total = reports[-1]["total"]
    cached = reports[0]["cache"]
    assert cached < 64, "what other tests' prompts begin with as well"
    assert [report["processed"] for report in reports] == [cached, *range(cached + 64, total, 64), total]
    assert {(report["total"], report["cache"]) for report in reports} == {(total, cached)}
    assert [report["time_ms"] for report in reports] == sorted(report["time_ms"] for report in reports)
    assert all(set(event) >= {"id", "choices"} for event in told)
    again = events(ask(slow.port, "POST", route, body).body)
    first = next(event["prompt_progress"] for event in again if "prompt_progress" in event)
    assert first["processed"] == first["cache"] > 200
