"""The bodies of ``POST /tokenize``, ``/detokenize`` and ``/apply-template``.

OpenAI has no such routes. They take both llama-server's fields (``content``, ``add_special``, ``with_pieces``) and
vLLM's (``prompt``, ``add_special_tokens``, ``return_token_strs``), and their replies have both projects' keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from tailrace.chat.detokenize import PieceTable
from tailrace.errors import InvalidRequest
from tailrace.prompt_text import PromptText
from tailrace.protocol import ModelInfo, Tokenize
from tailrace.server.dialects.openai.chat import ChatMessage, ChatRequest
from tailrace.server.dialects.openai.common_fields import TokenId
from tailrace.server.dialects.openai.tools import Tool

#: The fields of a chat request that change its prompt. ``/tokenize`` and ``/apply-template`` have them as well.
_PROMPT_FIELDS = (
    "chat_template_kwargs",
    "reasoning_effort",
    "enable_thinking",
    "thinking",
    "reasoning",
    "thinking_budget",
    "reasoning_budget",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
)
_PROMPT_ROWS = [
    (field.name, field.type, field.default)
    for field in msgspec.structs.fields(ChatRequest)
    if field.name in _PROMPT_FIELDS
]


class _TemplateFields(msgspec.Struct, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    tools: list[Tool] | None = None


class _TokenizeFields(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    return_token_strs: bool | None = None


if TYPE_CHECKING:
    TemplateRequest = _TemplateFields
    TokenizeRequest = _TokenizeFields
else:
    TemplateRequest = msgspec.defstruct(
        "TemplateRequest",
        _PROMPT_ROWS,
        bases=(_TemplateFields,),
        module=__name__,
        namespace={"__doc__": "The body of ``/apply-template``: the fields of a chat request that change its prompt."},
        kw_only=True,
    )
    TokenizeRequest = msgspec.defstruct(
        "TokenizeRequest",
        _PROMPT_ROWS,
        bases=(_TokenizeFields,),
        module=__name__,
        namespace={"__doc__": "The body of ``/tokenize``: a text, or messages for the model's template."},
        kw_only=True,
    )


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of ``/detokenize``."""

    tokens: Annotated[list[TokenId], Meta(max_length=16_777_216)]
    model: str | None = None


tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)
template_decoder = msgspec.json.Decoder(TemplateRequest)


def template_of(request: TokenizeRequest) -> TemplateRequest | None:
    """The messages' part of the request; None where it has a text. Raises InvalidRequest."""
    forms = [name for name in ("prompt", "content", "messages") if getattr(request, name) is not None]
    if len(forms) != 1:
        param = forms[1] if forms else "prompt"
        raise InvalidRequest("One of 'prompt', 'content' and 'messages' says what to tokenize.", param=param)
    if request.messages is None:
        return None
    return TemplateRequest(**{name: getattr(request, name) for name in TemplateRequest.__struct_fields__})


def as_chat(request: TemplateRequest) -> ChatRequest:
    """The chat request with this prompt."""
    return ChatRequest(**{name: getattr(request, name) for name in TemplateRequest.__struct_fields__})


def tokenize_query(identity: int, request: TokenizeRequest, rendered: PromptText | None) -> Tokenize:
    """The engine's query for the request; ``rendered`` is the template's output for its messages."""
    start = request.add_special if request.add_special is not None else request.add_special_tokens
    special = request.parse_special is not False
    if rendered is not None:  # The defaults are a chat completion's.
        return Tokenize(id=identity, text=rendered, parse_special=special, add_special=start)
    if request.content is not None:
        return Tokenize(id=identity, text=PromptText(request.content), parse_special=special, add_special=bool(start))
    return Tokenize(id=identity, text=PromptText(request.prompt or ""), parse_special=special, add_special=start)


def text_param(request: TokenizeRequest) -> str:
    """The field that has the text."""
    return next(name for name in ("messages", "content", "prompt") if getattr(request, name) is not None)


def tokenized(request: TokenizeRequest, tokens: list[int], vocabulary: PieceTable, info: ModelInfo) -> dict[str, Any]:
    """The body of ``/tokenize``'s reply."""
    pieces = [piece_of(token, vocabulary, info) for token in tokens]
    body: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": info.context}
    if request.with_pieces:
        body["tokens"] = [{"id": token, "piece": _piece(raw)} for token, raw in zip(tokens, pieces, strict=True)]
    if request.return_token_strs:
        body["token_strs"] = [raw.decode("utf-8", "replace") for raw in pieces]
    return body


def detokenized(request: DetokenizeRequest, vocabulary: PieceTable, info: ModelInfo) -> dict[str, Any]:
    """The body of ``/detokenize``'s reply. Raises InvalidRequest."""
    text = text_of(request.tokens, vocabulary, info, param="tokens")
    return {"content": text, "prompt": text}


def text_of(tokens: list[int], vocabulary: PieceTable, info: ModelInfo, *, param: str) -> str:
    """The tokens' text, special tokens by their names. Raises InvalidRequest for an id that is none."""
    size = len(vocabulary)
    if not all(0 <= token < size for token in tokens):
        raise InvalidRequest(f"'{param}': token ids must be between 0 and {size - 1}.", param=param)
    return b"".join(piece_of(token, vocabulary, info) for token in tokens).decode("utf-8", "replace")


def piece_of(token: int, vocabulary: PieceTable, info: ModelInfo) -> bytes:
    """The token's bytes; a special token's name."""
    name = info.special_tokens.get(token)
    return vocabulary.pieces[token] if name is None else name.encode()


def _piece(raw: bytes) -> str | list[int]:
    """llama-server's form: bytes where they are no text by themselves."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
