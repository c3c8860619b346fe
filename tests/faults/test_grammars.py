"""Grammars and templates of one client beside the streams of another: none of them holds up a stream."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from canary import canary, percentile
from fault_figures import Record
from openai_wire import ask, chat
from servers import ServerProcess, serving

#: Others' gaps beside an attack ÷ their gaps beside as many usual replies.
GAPS = 2.0
MODEL = ("--ctx", "2048", "--parallel", "8")
AMBIGUOUS = 'start: s\ns: s s | s s s | "a" | ""'
#: After some tokens each mask takes long.
LATE = 'start: /x{20}/ s\ns: s s | s s s | "a" | ""'


def _reply(server: ServerProcess, **fields: Any) -> int:
    """The status of a reply of up to 40 tokens."""
    body = {"messages": [{"role": "user", "content": "Say a"}], "max_tokens": 40, **fields}
    return ask(server.port, "POST", "/v1/chat/completions", body).status


async def _beside(server: ServerProcess, seconds: float, **fields: Any) -> list[float]:
    """The canary's gaps while six other clients ask for replies with these fields, one after the other."""
    end = time.monotonic() + seconds

    def repeat() -> None:
        while time.monotonic() < end:
            assert _reply(server, **fields) in (200, 400)

    async with canary(server.port) as bird:
        await bird.gaps_during(2.0)
        clients = [asyncio.create_task(asyncio.to_thread(repeat)) for _ in range(6)]
        gaps = await bird.gaps_during(seconds - 1.0)
        await asyncio.gather(*clients)
    return gaps


@pytest.mark.parametrize("grammar", [AMBIGUOUS, LATE], ids=["ambiguous", "late"])
def test_replies_with_an_ambiguous_grammar_hold_up_no_stream(record: Record, grammar: str) -> None:
    with serving(*MODEL) as server:
        usual = asyncio.run(_beside(server, 10.0, guided_regex="[a-z ]{200}"))
        attacked = asyncio.run(_beside(server, 10.0, guided_grammar=grammar))
        record("p99 gap", percentile(attacked, 0.99) / percentile(usual, 0.99), GAPS, "x")


def test_grammars_of_clients_that_have_left_delay_no_other(record: Record) -> None:
    """The clients' own address is the other client's, too: only the queue keeps them apart."""
    with serving(*MODEL) as server:
        assert _reply(server, guided_regex="[0-9]{3}") == 200
        for number in range(20):
            rules = "\n".join(f'r{n}: "x{number}_{n}" r{n + 1} | "y"' for n in range(8000))
            grammar = f'start: r0\n{rules}\nr8000: "z"'
            body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "guided_grammar": grammar}).encode()
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
                sock.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + body)
        begun = time.monotonic()
        assert _reply(server, guided_regex="[0-9]{2}") == 200
        record("a short regex behind 20 large grammars", time.monotonic() - begun, 3.0, "s")
        begun = time.monotonic()
        assert _reply(server, guided_grammar='start: "x" | "y"\n// ' + "x" * 20_000) == 200
        record("a large grammar behind them", time.monotonic() - begun, 10.0, "s")


def test_a_template_that_never_ends_delays_no_other(record: Record, tmp_path: Path) -> None:
    """It ends for short conversations, so it is taken at the start."""
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    shown = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    template = tmp_path / "template.jinja"
    template.write_text(f"{shown}{{% if messages | length > 6 %}}{loops}{{% endif %}}", encoding="utf-8")

    async def attack(server: ServerProcess) -> tuple[list[float], list[float]]:
        body = chat("Hi")
        body["messages"] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}] * 5

        def hostile() -> int:
            return ask(server.port, "POST", "/v1/chat/completions", body).status

        async with canary(server.port) as bird:
            usual = await bird.gaps_during(5.0)
            requests = [asyncio.create_task(asyncio.to_thread(hostile)) for _ in range(2)]
            attacked = await bird.gaps_during(5.0)
            assert await asyncio.gather(*requests) == [400, 400]
        return usual, attacked

    with serving(*MODEL, "--chat-template", str(template)) as server:
        usual, attacked = asyncio.run(attack(server))
        record("p99 gap", percentile(attacked, 0.99) / percentile(usual, 0.99), GAPS, "x")
