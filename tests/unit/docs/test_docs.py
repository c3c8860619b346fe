"""The documents name every field of requests that exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import get_args

import msgspec

from tailrace.conformance.registry import RULES
from tailrace.server.dialects.anthropic.content_blocks import Block
from tailrace.server.dialects.anthropic.request import MessagesRequest, OutputConfig, ThinkingEnabled, Tool
from tailrace.server.dialects.llama_server import request_fields as llama_server
from tailrace.server.dialects.llama_server.embeddings import NativeEmbeddingRequest
from tailrace.server.dialects.ollama import chat as ollama_chat
from tailrace.server.dialects.ollama import derived_model_request as ollama_create
from tailrace.server.dialects.ollama import embed_routes as ollama_embed
from tailrace.server.dialects.ollama import generate as ollama_generate
from tailrace.server.dialects.ollama import model_routes as ollama_manage
from tailrace.server.dialects.ollama.options import Options
from tailrace.server.dialects.ollama.pull_route import PullRequest
from tailrace.server.dialects.openai.chat import ChatRequest
from tailrace.server.dialects.openai.completions import CompletionRequest
from tailrace.server.dialects.openai.embeddings import EmbeddingRequest
from tailrace.server.dialects.openai.tokenize_bodies import DetokenizeRequest, TemplateRequest, TokenizeRequest
from tailrace.server.dialects.rerank.request import RerankRequest
from tailrace.server.dialects.responses.hosted_tool_items import HOSTED_ITEMS
from tailrace.server.dialects.responses.items import ITEM_TYPES
from tailrace.server.dialects.responses.request import Reasoning, ResponsesRequest, TextConfig

ROOT = Path(__file__).parents[3]


def rows(document: str, *headings: str) -> set[str]:
    """The names in the first column of the document's tables, or of those under these headings."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    if headings:
        sections = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
        text = "".join(sections[heading] for heading in headings)
    return set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))


def fields(*kinds: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)}


def test_every_request_field_has_its_row_and_every_row_its_field() -> None:
    both = "Chat and text completions"
    assert rows("parameters.md", both, "Chat completions alone") == fields(ChatRequest)
    assert rows("parameters.md", both, "Text completions alone") == fields(CompletionRequest)
    assert rows("parameters.md", "Embeddings") == fields(EmbeddingRequest)
    assert rows("parameters.md", "Reranking") == fields(RerankRequest)
    tokens = fields(TokenizeRequest, DetokenizeRequest, TemplateRequest)
    assert rows("parameters.md", "Tokens and templates") == tokens


def test_every_field_of_anthropics_requests_has_its_row_and_every_row_its_field() -> None:
    text = (ROOT / "docs" / "anthropic.md").read_text(encoding="utf-8")
    blocks = {str(kind.__struct_config__.tag) for kind in get_args(Block)}
    assert rows("anthropic.md") == {field.name for field in msgspec.structs.fields(MessagesRequest)} | blocks
    tools = set(re.findall(r"^\| `tools\[\]\.(\w+)`", text, re.MULTILINE))
    assert tools == {field.name for field in msgspec.structs.fields(Tool)}
    for kind in (OutputConfig, ThinkingEnabled):
        assert all(f"`{field.name}" in text for field in msgspec.structs.fields(kind)), kind


def test_every_field_of_responses_has_its_row_and_every_row_its_field() -> None:
    assert rows("responses.md", "Request fields") == fields(ResponsesRequest)
    assert rows("responses.md", "Items") == set(ITEM_TYPES)
    assert rows("responses.md", "Items of other servers' tools") == set(HOSTED_ITEMS)
    assert rows("responses.md", "Tools") == {"function", "namespace", "custom", "web_search"}
    text = (ROOT / "docs" / "responses.md").read_text(encoding="utf-8")
    for kind in (TextConfig, Reasoning):
        assert all(f"`{name}`" in text for name in fields(kind)), kind


def test_every_field_and_option_of_ollamas_has_its_row_and_every_row_its_field() -> None:
    kinds: list[type[msgspec.Struct]] = [ollama_chat.ChatRequest, ollama_generate.GenerateRequest, Options]
    kinds += [ollama_embed.EmbedRequest, ollama_embed.EmbeddingsRequest]
    kinds += [ollama_create.CreateRequest, ollama_create.CopyRequest]
    kinds += [ollama_manage.ShowRequest, PullRequest, ollama_manage.DeleteRequest]
    assert rows("ollama.md") == {field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)}


def test_every_field_of_llama_servers_requests_has_its_row_and_every_row_its_field() -> None:
    kinds: list[type[msgspec.Struct]] = [llama_server.CompletionRequest, llama_server.InfillRequest]
    assert rows("llama-server.md", "Fields") == fields(*kinds, NativeEmbeddingRequest)


def test_the_known_misses_of_llama_cpps_tests_are_in_the_document() -> None:
    found = runpy.run_path(str(ROOT / "tests" / "peers" / "known_misses.py"))
    assert found["table"]() in (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_every_wire_rule_that_can_be_seen_from_outside_is_checked() -> None:
    numbers = {
        int(number) for number in re.findall(r"^(\d+)\. ", (ROOT / "docs" / "wire.md").read_text(), re.MULTILINE)
    }
    assert numbers <= {rule.wire for rule in RULES.values()}
