"""Every field that OpenAI's and Anthropic's own packages can send is known: honoured, accepted or refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import completion_create_params as text_params
from openai.types import embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.chat.chat_completion_assistant_message_param import ChatCompletionAssistantMessageParam
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam
from openai.types.responses import response_create_params

from tailrace.server.dialects.anthropic.request import MessagesRequest
from tailrace.server.dialects.openai.chat import ChatMessage, ChatRequest
from tailrace.server.dialects.openai.completions import CompletionRequest
from tailrace.server.dialects.openai.embeddings import EmbeddingRequest
from tailrace.server.dialects.openai.generation_params import StreamOptions
from tailrace.server.dialects.responses.request import ResponsesRequest


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        (chat_params.CompletionCreateParamsBase, ChatRequest),
        (text_params.CompletionCreateParamsBase, CompletionRequest),
        (embedding_create_params.EmbeddingCreateParams, EmbeddingRequest),
        (response_create_params.ResponseCreateParamsBase, ResponsesRequest),
        (message_create_params.MessageCreateParamsBase, MessagesRequest),
        (message_count_tokens_params.MessageCountTokensParams, MessagesRequest),
        (ChatCompletionAssistantMessageParam, ChatMessage),
        (ChatCompletionStreamOptionsParam, StreamOptions),
    ],
    ids=lambda kind: kind.__name__,
)
def test_no_published_field_is_unknown(published: Any, ours: type[msgspec.Struct]) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(ours)}
    assert {*published.__annotations__} - known == set()
