"""The replies of a conforming server in every dialect, for ``ModelServer``."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from model_server import Answer, Asked, Json, ModelServer

MODEL = "tiny"
CREATED = 1_700_000_000
DATE = "2025-01-02T03:04:05.678901Z"
#: So long is the silence between signs of life, and so many signs has a long prompt.
SILENCE, SIGNS = 0.08, 4
#: A prompt of so many words is long; a reply of so many tokens is slow.
LONG_PROMPT, LONG_REPLY = 60, 200

_HEAD = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


_INPUT_ITEM: Json = {"type": "message", "id": "msg-0", "status": "completed", "role": "user"}
_INPUT_ITEM["content"] = [{"type": "input_text", "text": "?"}]


class Refusal(Exception):
    """A request that is wrong: status, field, text."""

    def __init__(self, status: int, field: str | None, text: str) -> None:
        super().__init__(text)
        self.status, self.field, self.text = status, field, text


def respond(server: ModelServer, asked: Asked) -> Answer:
    """The right answer to every request."""
    cors = {"access-control-allow-origin": "*"}
    if asked.method == "OPTIONS":
        allowed = asked.headers.get("access-control-request-headers", "")
        return Answer(204, {**cors, "access-control-allow-headers": allowed})
    path = _canonical(asked.path)
    try:
        answer = _answer(server, asked, path)
    except Refusal as refusal:
        answer = Answer(refusal.status, {"content-type": "application/json"})
        answer.say(_error(path, refusal))
    answer.headers |= {**cors, "x-request-id": "req-1"}
    if asked.version == "HTTP/1.0":
        answer.framing = "close"
    return answer


def _canonical(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    while parts and parts[0] == "v1":
        parts.pop(0)
    return "/" + "/".join(parts)


def _error(path: str, refusal: Refusal) -> Json:
    kind = {401: "authentication_error", 404: "not_found_error"}.get(refusal.status, "invalid_request_error")
    if path.startswith("/messages"):
        return {"type": "error", "error": {"type": kind, "message": refusal.text}}
    if path.startswith("/api"):
        return {"error": refusal.text}
    return {"error": {"message": refusal.text, "type": kind, "param": refusal.field, "code": None}}


def _answer(server: ModelServer, asked: Asked, path: str) -> Answer:
    if path in ("/", "/health"):
        return _json({"status": "ok"})
    given = (asked.headers.get("authorization", ""), asked.headers.get("x-api-key", ""))
    if server.key is not None and f"Bearer {server.key}" not in given and server.key not in given:
        raise Refusal(401, None, "wrong key")
    if asked.method == "GET":
        return _get(server, path)
    if path not in _POST:
        raise Refusal(404, None, "no such route")
    body = asked.body
    if not isinstance(body, dict):
        raise Refusal(400, None, "the body is no JSON")
    body = {name: value for name, value in body.items() if value is not None}
    for name in _NEEDED.get(path, ()):
        if name not in body:
            raise Refusal(400, name, f"{name} is missing")
    if body.get("model") not in (MODEL, f"{MODEL}:latest"):
        raise Refusal(404, "model", f"the model {body.get('model')} not found")
    return _POST[path](body)


def _get(server: ModelServer, path: str) -> Answer:
    model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "tests"}
    details = {"family": "tiny"}
    row = {"name": MODEL, "model": MODEL, "modified_at": DATE, "size": 1, "digest": "abc", "details": details}
    found: dict[str, Json] = {
        "/models": {"object": "list", "data": [model]},
        f"/models/{MODEL}": model,
        "/responses/resp-1/input_items": {"object": "list", "data": [_INPUT_ITEM]},
        "/api/version": {"version": "0.9.9"},
        "/api/tags": {"models": [row]},
        "/api/ps": {"models": [row]},
    }
    if path == "/metrics":
        return Answer(body=b"vllm:num_requests_running %d\n" % server.running)
    if path not in found:
        raise Refusal(404, None, "no such route")
    return _json(found[path])


def _json(body: object) -> Answer:
    return Answer(headers={"content-type": "application/json"}).say(body)


def _number(body: Json, name: str, low: float, high: float, default: float) -> float:
    value = body.get(name, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise Refusal(400, name, f"{name} has to be a number from {low} to {high}")
    return float(value)


class Reply:
    """The model's reply to a prompt: words, each a token, and the finish."""

    def __init__(self, prompt: str, limit: int) -> None:
        whole = prompt.encode("utf-8", "replace").decode()  # Half an emoji is no text.
        words = [word.strip(".,") for word in whole.split()]
        if limit >= LONG_REPLY:
            words = [f"number{index}" for index in range(limit)]
        self.prompt_tokens = len(words)
        wanted = [*reversed(words[-10:]), "Grüße", "你好", "🎉", "ends"]
        if limit >= LONG_REPLY:
            wanted = words
        self.words = [f"{word} " for word in wanted[:limit]]
        self.text = "".join(self.words)
        self.cut = len(wanted) > limit
        self.signs = SIGNS if self.prompt_tokens >= LONG_PROMPT and limit < LONG_REPLY else 0
        self.slow = limit >= LONG_REPLY

    def pauses(self, first_sign: int) -> dict[int, float]:
        """Ahead of each sign of life (the first is piece ``first_sign``), and of each word of a long reply."""
        if self.slow:
            return dict.fromkeys(range(1, len(self.words)), 0.004)
        return {first_sign + place: SILENCE for place in range(self.signs + 1 if self.signs else 0)}


def _texts(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(_texts(part) for part in content)
    if isinstance(content, dict):
        return str(content.get("text", "")) or _texts(content.get("content", ""))
    return content if isinstance(content, str) else ""


def _calls_a_tool(body: Json, field: str = "messages") -> bool:
    last = body[field][-1] if isinstance(body[field], list) else {}
    return bool(body.get("tools")) and last.get("role", "user") == "user" and "tool_result" not in str(last)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sse(value: object) -> bytes:
    return f"data: {_dump(value)}\n\n".encode()


def _named(value: Json) -> bytes:
    return f"event: {value['type']}\ndata: {_dump(value)}\n\n".encode()


# OpenAI


def _checked(body: Json) -> int:
    _number(body, "temperature", 0, 2, 1)
    _number(body, "top_p", 0, 1, 1)
    _number(body, "n", 1, 128, 1)
    if not isinstance(body.get("stream", False), bool):
        raise Refusal(400, "stream", "stream has to be a boolean")
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    return int(_number(body, name, 1, 1e9, 16))


def _usage(reply: Reply) -> Json:
    spoken = len(reply.words)
    total = reply.prompt_tokens + spoken
    counts = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": spoken, "total_tokens": total}
    return {**counts, "prompt_tokens_details": {"cached_tokens": 0}}


def chat(body: Json) -> Answer:
    """``/chat/completions``: thinks a little, then speaks or calls the tool."""
    limit = _checked(body)
    if not isinstance(body.get("messages"), list):
        raise Refusal(400, "messages", "messages has to be a list")
    reply = Reply(_texts(body["messages"][-1]["content"]), limit)
    if "response_format" in body:
        reply.text, reply.cut = '{"city": "Rome"}', False
    tool = _calls_a_tool(body)
    finish = "tool_calls" if tool else "length" if reply.cut else "stop"
    head: Json = {"id": "chat-1", "created": CREATED, "model": MODEL}
    call = {"id": "call-1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    if not body.get("stream"):
        message: Json = {"role": "assistant", "content": "" if tool else reply.text, "refusal": None}
        if tool:
            message["tool_calls"] = [call]
        if "functions" in body:
            message["function_call"] = call["function"]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return _json({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)})

    def chunk(delta: Json, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _sse({**head, "object": "chat.completion.chunk", "choices": [choice]})

    pieces = [chunk({"role": "assistant", "content": ""})]
    pauses = reply.pauses(1)
    pieces += [chunk({"content": ""})] * reply.signs
    pieces += [chunk({"reasoning_content": "Hm."})]
    if tool:
        first = {**call, "index": 0, "function": {"name": "get_weather", "arguments": ""}}
        fragments = [first, *({"index": 0, "function": {"arguments": part}} for part in ('{"city":', ' "Paris"}'))]
        pieces += [chunk({"tool_calls": [fragment]}) for fragment in fragments]
    else:
        pieces += [chunk({"content": word}) for word in ["<think>", "Hm.", "</think>", *reply.words]]
    pieces.append(chunk({}, finish))
    if (body.get("stream_options") or {}).get("include_usage"):
        pieces.append(_sse({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(reply)}))
    return Answer(headers=dict(_HEAD), pieces=[*pieces, b"data: [DONE]\n\n"], pauses=pauses)


def completions(body: Json) -> Answer:
    """``/completions``."""
    reply = Reply(str(body.get("prompt")), _checked(body))
    finish = "length" if reply.cut else "stop"
    head: Json = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": MODEL}
    if not body.get("stream"):
        choice = {"index": 0, "text": reply.text, "finish_reason": finish}
        return _json({**head, "choices": [choice], "usage": _usage(reply)})

    def chunk(text: str, reason: str | None = None) -> bytes:
        return _sse({**head, "choices": [{"index": 0, "text": text, "finish_reason": reason}]})

    pieces = [*(chunk(word) for word in reply.words), chunk("", finish)]
    if (body.get("stream_options") or {}).get("include_usage"):
        pieces.append(_sse({**head, "choices": [], "usage": _usage(reply)}))
    return Answer(headers=dict(_HEAD), pieces=[*pieces, b"data: [DONE]\n\n"])


def embeddings(body: Json) -> Answer:
    """``/embeddings``: three numbers from a text's characters, or the requested dimensions."""
    texts = body["input"]
    size = int(body.get("dimensions", 3))
    rows = []
    for index, text in enumerate(texts if isinstance(texts, list) else [texts]):
        vector = [float(sum(map(ord, str(text))) % (7 + place)) + 1 for place in range(size)]
        packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        value = packed if body.get("encoding_format") == "base64" else vector
        rows.append({"object": "embedding", "index": index, "embedding": value})
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return _json({"object": "list", "model": MODEL, "data": rows, "usage": usage})


def rerank(body: Json) -> Answer:
    """``/rerank``: the more letters a document shares with the query, the better."""
    if not body["documents"]:
        raise Refusal(400, "documents", "documents is empty")
    rows: list[Json] = []
    for index, text in enumerate(body["documents"]):
        shared = len(set(text) & set(body["query"]))
        row: Json = {"index": index, "relevance_score": shared / 100}
        rows.append(row | ({"document": {"text": text}} if body.get("return_documents") else {}))
    rows.sort(key=lambda row: -row["relevance_score"])
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return _json({"model": MODEL, "results": rows[: body.get("top_n", len(rows))], "usage": usage})


def responses(body: Json) -> Answer:
    """``/responses``."""
    limit = int(_number(body, "max_output_tokens", 16, 1e9, 16))
    given = body["input"]
    reply = Reply(given if isinstance(given, str) else _texts(given[-1]["content"]), limit)
    tool = _calls_a_tool(body, "input")
    if limit == 16 and "hundred" in str(given):
        reply.words, reply.cut = [f"{number} " for number in range(16)], True
    spoken = len(reply.words)
    usage = {"input_tokens": 5, "output_tokens": spoken, "total_tokens": 5 + spoken}
    text = "".join(reply.words)
    part = {"type": "output_text", "text": text, "annotations": []}
    item: Json = {"type": "message", "id": "msg-1", "role": "assistant", "status": "completed", "content": [part]}
    if tool:
        item = {"type": "function_call", "id": "fc-1", "call_id": "call-1", "name": "get_weather"}
        item |= {"arguments": '{"city": "Paris"}', "status": "completed"}
    base: Json = {"id": "resp-1", "object": "response", "created_at": CREATED, "model": MODEL}
    status = "incomplete" if reply.cut and not tool else "completed"
    full = {**base, "status": status, "output": [item], "usage": usage}
    if status == "incomplete":
        full["incomplete_details"] = {"reason": "max_output_tokens"}
    if not body.get("stream"):
        return _json(full)
    begun = {"response": {**base, "status": "in_progress", "output": []}}
    events: list[Json] = [{"type": "response.created", **begun}, {"type": "response.in_progress", **begun}]
    events += [{"type": "response.in_progress", **begun}] * reply.signs
    at = {"output_index": 0, "item_id": item["id"]}
    opened: Json = {**item, "status": "in_progress", **({"arguments": ""} if tool else {"content": []})}
    events.append({"type": "response.output_item.added", "output_index": 0, "item": opened})
    if tool:
        for piece in ('{"city":', ' "Paris"}'):
            events.append({"type": "response.function_call_arguments.delta", **at, "delta": piece})
        events.append({"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]})
    else:
        at |= {"content_index": 0}
        events.append({"type": "response.content_part.added", **at, "part": {**part, "text": ""}})
        events += [{"type": "response.output_text.delta", **at, "delta": word} for word in reply.words]
        events.append({"type": "response.output_text.done", **at, "text": text})
        events.append({"type": "response.content_part.done", **at, "part": part})
    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": f"response.{status}", "response": full})
    pieces = [_named({**event, "sequence_number": number}) for number, event in enumerate(events)]
    return Answer(headers=dict(_HEAD), pieces=pieces, pauses=reply.pauses(2))


# Anthropic


def messages(body: Json) -> Answer:
    """``/v1/messages``."""
    if not isinstance(body.get("messages"), list):
        raise Refusal(400, "messages", "messages has to be a list")
    reply = Reply(_texts(body["messages"][-1]["content"]), int(_number(body, "max_tokens", 1, 1e9, 16)))
    tool = _calls_a_tool(body)
    reason = "tool_use" if tool else "max_tokens" if reply.cut else "end_turn"
    usage = {"input_tokens": reply.prompt_tokens, "output_tokens": max(1, len(reply.words))}
    base: Json = {"id": "msg-1", "type": "message", "role": "assistant", "model": MODEL, "stop_sequence": None}
    block: Json = {"type": "text", "text": reply.text}
    if tool:
        block = {"type": "tool_use", "id": "toolu-1", "name": "get_weather", "input": {"city": "Paris"}}
    if not body.get("stream"):
        return _json({**base, "content": [block], "stop_reason": reason, "usage": usage})
    start = {**base, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    opened = {**block, "input": {}} if tool else {**block, "text": ""}
    # A ping may come first: the request may have waited for its model.
    events: list[Json] = [{"type": "ping"}, {"type": "message_start", "message": start}]
    events += [{"type": "ping"}] * reply.signs
    events.append({"type": "content_block_start", "index": 0, "content_block": opened})
    parts = ('{"city":', ' "Paris"}') if tool else reply.words
    for piece in parts:
        delta = {"type": "input_json_delta", "partial_json": piece} if tool else {"type": "text_delta", "text": piece}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    events.append({"type": "content_block_stop", "index": 0})
    ended = {"stop_reason": reason, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ended, "usage": usage})
    events.append({"type": "message_stop"})
    return Answer(headers=dict(_HEAD), pieces=[_named(event) for event in events], pauses=reply.pauses(1))


def count_tokens(body: Json) -> Answer:
    """``/v1/messages/count_tokens``."""
    return _json({"input_tokens": 7})


# Ollama


def _ollama(body: Json, prompt: str, say: Any, tool: bool = False) -> Answer:
    limit = int((body.get("options") or {}).get("num_predict", 16))
    reply = Reply(prompt, limit)
    base = {"model": MODEL, "created_at": DATE}
    last: Json = {"done": True, "done_reason": "length" if reply.cut and not tool else "stop"}
    last |= {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 5, "prompt_eval_duration": 4}
    last |= {"eval_count": max(1, len(reply.words)), "eval_duration": 4}
    if body.get("stream", True) is False:
        return _json({**base, **say(reply.text, tool), **last})
    pieces = [{**base, **say("", False), "done": False}] * reply.signs
    pieces += [{**base, **say(word, tool), "done": False} for word in (reply.words[:1] if tool else reply.words)]
    pieces.append({**base, **say("", False), **last})
    head = {"content-type": "application/x-ndjson"}
    return Answer(headers=head, pieces=[f"{_dump(piece)}\n".encode() for piece in pieces], pauses=reply.pauses(0))


def ollama_chat(body: Json) -> Answer:
    """``/api/chat``."""

    def say(text: str, tool: bool) -> Json:
        message: Json = {"role": "assistant", "content": "" if tool else text}
        if tool:
            message["tool_calls"] = [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]
        return {"message": message}

    return _ollama(body, _texts(body["messages"][-1]["content"]), say, _calls_a_tool(body))


def ollama_generate(body: Json) -> Answer:
    """``/api/generate``."""
    return _ollama(body, str(body["prompt"]), lambda text, tool: {"response": text})


def ollama_show(body: Json) -> Answer:
    """``/api/show``."""
    return _json({"details": {}, "model_info": {}, "capabilities": ["completion", "tools"]})


def ollama_embed(body: Json) -> Answer:
    """``/api/embed``."""
    return _json({"model": MODEL, "embeddings": [[1.0, 2.0] for _ in body["input"]]})


_NEEDED = {
    "/chat/completions": ["messages"],
    "/completions": ["prompt"],
    "/embeddings": ["input"],
    "/rerank": ["query", "documents"],
    "/responses": ["input"],
    "/messages": ["messages"],
    "/api/chat": ["messages"],
}

_POST = {
    "/chat/completions": chat,
    "/completions": completions,
    "/embeddings": embeddings,
    "/rerank": rerank,
    "/responses": responses,
    "/messages": messages,
    "/messages/count_tokens": count_tokens,
    "/api/chat": ollama_chat,
    "/api/generate": ollama_generate,
    "/api/show": ollama_show,
    "/api/embed": ollama_embed,
}
