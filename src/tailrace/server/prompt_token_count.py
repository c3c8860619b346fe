"""The number of a request's prompt tokens, as OpenAI's and llama-server's routes report it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from tailrace.prompt_text import PromptText
from tailrace.protocol import Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel


async def count_input(app: AppState, request: Request, model: ServedModel, wanted: GenerationRequest) -> dict[str, Any]:
    """The body with the token count of the only prompt of ``wanted``, as ``model`` reads it. Raises RequestError."""
    (prompt,) = wanted.prompts
    assert isinstance(prompt, PromptText), "a conversation's prompt is text"
    (tokenized,) = await app.queries.ask(
        request,
        model,
        lambda identity: Tokenize(id=identity, text=prompt),
        param=wanted.prompt_param,
    )
    assert isinstance(tokenized, Tokenized)
    return {"object": "response.input_tokens", "input_tokens": len(tokenized.tokens)}
