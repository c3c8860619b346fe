"""All faults: for each rule of the checker, servers that break only this rule."""

from __future__ import annotations

import anthropic_faults
import chat_request_faults
import chat_stream_faults
import completion_faults
import concurrency_faults
import embedding_faults
import ollama_faults
import rerank_faults
import responses_faults
import tool_call_faults
import transport_faults
from chat_stream_faults import failing
from fault_rules import FAULTS, LONG, Fault

#: The modules that register faults.
MODULES = (
    transport_faults,
    chat_request_faults,
    tool_call_faults,
    chat_stream_faults,
    concurrency_faults,
    completion_faults,
    embedding_faults,
    rerank_faults,
    responses_faults,
    anthropic_faults,
    ollama_faults,
)
__all__ = ["FAULTS", "LONG", "MODULES", "Fault", "failing"]
