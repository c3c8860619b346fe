"""Faults in OpenAI's text completions."""

from __future__ import annotations

from collections.abc import Callable

from fault_rules import (
    COMPLETIONS,
    each,
    fault,
    has,
    header,
    is_broken,
    objects,
    pieces,
    plain,
    put,
    streams,
    unstreamed,
    whole,
)
from model_server import Json


def _text_finish(value: object) -> Callable[[Json], Json]:
    def change(chunk: Json) -> Json:
        for choice in chunk["choices"]:
            if choice["finish_reason"] is not None:
                choice["finish_reason"] = value
        return chunk

    return change


text_usage = has(COMPLETIONS, lambda body: body.get("stream_options"))
TEXT = streams(COMPLETIONS)
fault("completions-answers", "text", header(unstreamed(COMPLETIONS), "content-type", "text/plain"))
fault("completions-whole", "object", whole(unstreamed(COMPLETIONS), lambda body: put(body, "object", "completion")))
fault("completions-whole", "usage", whole(unstreamed(COMPLETIONS), lambda body: body.pop("usage")))
fault("completions-errors", "text", header(is_broken(COMPLETIONS), "content-type", "text/plain"))
fault("completions-head", "type", header(plain(COMPLETIONS), "content-type", "application/json"))
fault("completions-proxies", "buffering", header(plain(COMPLETIONS), "x-accel-buffering", None))
fault("completions-events", "no space", each(TEXT, lambda piece: piece.replace(b"data: ", b"data:")))
fault(
    "completions-chunks",
    "text",
    objects(TEXT, lambda chunk: {**chunk, "choices": [{**c, "text": None} for c in chunk["choices"]]}),
)
fault("completions-chunks", "object", objects(TEXT, lambda chunk: put(chunk, "object", "chat.completion.chunk")))
fault("completions-finish", "none", objects(TEXT, _text_finish(None)))
fault("completions-finish", "eos", objects(TEXT, _text_finish("eos")))
fault("completions-usage-chunk", "none", objects(text_usage, lambda chunk: chunk if chunk["choices"] else None))
fault("completions-done", "none", pieces(TEXT, lambda found: found[:-1]))
