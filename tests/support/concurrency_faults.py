"""Faults of concurrent and cancelled requests, and of latencies."""

from __future__ import annotations

import time

from fault_rules import CHAT, LONG, Where, answer_if, each, fault, has
from good_dialects import LONG_PROMPT, SIGNS
from model_server import Alter, Answer, Asked, ModelServer


def _mixes(server: ModelServer, asked: Asked, answer: Answer) -> None:
    if not has(CHAT, lambda body: "Zorblax" in str(body) or "bicycle" in str(body) or "months" in str(body))(asked):
        return
    with server.lock:
        server.memory.append(answer.body)
    time.sleep(0.2)
    with server.lock:
        answer.body = server.memory[0]
        server.running += 1
        if server.running == len(server.memory):
            server.memory.clear()
            server.running = 0


def _goes_on(server: ModelServer, asked: Asked, answer: Answer) -> None:
    server.cancels = False


def is_long(path: str) -> Where:
    """Requests there with a long prompt."""
    return has(path, lambda body: len(str(body).split()) > LONG_PROMPT and body.get("stream"))


def silent(path: str, sign: bytes) -> Alter:
    def change(answer: Answer) -> None:
        place = next(
            place for place, piece in enumerate(answer.pieces or []) if sign in piece and place in answer.pauses
        )
        answer.pieces = [*(answer.pieces or [])[:place], *(answer.pieces or [])[place + SIGNS :]]
        answer.pauses = {place: 0.6}

    return answer_if(is_long(path), change)


def slow_head(answer: Answer) -> None:
    answer.head_pause = 0.5


fault("concurrent", "mixed", _mixes)
fault("cancel", "goes on", _goes_on)
fault("headers-soon", "late", answer_if(is_long(CHAT), slow_head), max_delay=0.3, long_prompt_words=LONG)
fault(
    "models-busy",
    "late",
    answer_if(lambda asked: asked.path == "/v1/models", slow_head),
    max_delay=0.3,
    long_prompt_words=LONG,
)
fault("keep-alive", "silent", silent(CHAT, b'"delta": {"content": ""}'), long_prompt_words=LONG)
fault(
    "keep-alive-form",
    "comments",
    each(is_long(CHAT), lambda piece: b": keep-alive\n\n" if b'"delta": {"content": ""}' in piece else piece),
    long_prompt_words=LONG,
)
