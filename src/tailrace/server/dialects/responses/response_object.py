"""The response object: the request's fields, the status and the output."""

from __future__ import annotations

import time
from typing import Any, Literal

from tailrace.errors import RequestError, TooManyRequests
from tailrace.server.dialects.openai.generation_params import limit, sampling
from tailrace.server.dialects.responses.items import Item, new_id
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.tools import Toolset
from tailrace.server.events import Usage

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

#: The codes of a response's error that OpenAI's clients know; everything else that can happen is the server's fault.
_ERROR_CODES = frozenset({"server_error", "rate_limit_exceeded", "invalid_prompt"})


#: The kinds of summaries that OpenAI's clients know.
_SUMMARIES = frozenset({"auto", "concise", "detailed"})


class ResponseHead:
    """The constant fields of a response, with a new ``id``."""

    def __init__(self, request: ResponsesRequest, tools: Toolset, model: str, *, stored: bool) -> None:
        self.id = new_id("resp")
        self.created = int(time.time())
        sampling_params = sampling(request)
        reasoning = request.reasoning
        form = request.text.format if request.text is not None else None
        self._request_fields: dict[str, Any] = {
            "background": bool(request.background),
            "instructions": request.instructions,
            "max_output_tokens": limit(request, "n_predict", "max_output_tokens"),
            "max_tool_calls": request.max_tool_calls,
            "model": model,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "prompt_cache_key": request.prompt_cache_key,
            "reasoning": {
                "effort": reasoning.effort if reasoning is not None else None,
                "summary": reasoning.summary_kind
                if reasoning is not None and reasoning.summary_kind in _SUMMARIES
                else None,
            },
            "safety_identifier": request.safety_identifier,
            "service_tier": "default",
            "store": stored,
            "temperature": sampling_params.temperature,
            "text": {"format": _form(form), "verbosity": (request.text and request.text.verbosity) or "medium"},
            "tool_choice": request.tool_choice or "auto",
            "tools": tools.listed,
            "top_logprobs": request.top_logprobs or 0,
            "top_p": sampling_params.top_p,
            "truncation": request.truncation or "disabled",
            "user": request.user,
            "metadata": request.metadata or {},
        }
        if request.conversation_id is not None:
            self._request_fields["conversation"] = {"id": request.conversation_id}

    def forget_storing(self) -> None:
        """The response isn't stored, though it was to be."""
        self._request_fields["store"] = False

    def body(
        self, status: Status, output: list[Item], usage: Usage | None = None, error: RequestError | None = None
    ) -> dict[str, Any]:
        """The object. An incomplete response has reached its token limit."""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None if error is None else _error(error),
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": output,
            "usage": None if usage is None else _usage(usage),
            **self._request_fields,
        }


def _form(form: Any) -> dict[str, Any]:
    if form is None or form.type != "json_schema":
        return {"type": "text" if form is None else form.type}
    return {
        "type": "json_schema",
        "name": form.name,
        "schema": form.schema,
        "description": form.description,
        "strict": True if form.strict is None else form.strict,
    }


def _error(error: RequestError) -> dict[str, Any]:
    if isinstance(error, TooManyRequests):
        code: str | None = "rate_limit_exceeded"
    else:
        code = error.code if error.code in _ERROR_CODES else "server_error"
    return {"code": code, "message": error.message}


def _usage(used: Usage) -> dict[str, Any]:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
