"""Limits on how much of something a request may have, the same in every dialect. They come from the settings.

Work in proportion to these counts is done before the engine sees a request. So they are checked as soon as the body is
decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import msgspec

from tailrace.chat.tools import Function
from tailrace.errors import ContextLengthExceeded, InvalidRequest
from tailrace.generation_params import Grammar
from tailrace.prompt_text import PromptText
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel
from tailrace.settings import Settings

#: Characters from which a text is refused by its size: the refusal of a shorter one names the exact number of tokens.
_LARGE_TEXT = 1_000_000


class RequestLimits:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._schema_bytes = settings.max_schema_kb * 1000
        self._counts = {
            "documents": (settings.max_documents, "documents"),
            "texts": (settings.max_documents, "documents"),
            "messages": (settings.max_messages, "messages"),
            "items": (settings.max_items, "items"),
            "tools": (settings.max_tools, "tools"),
            "functions": (settings.max_tools, "functions"),
            "stop": (settings.max_stops, "stop strings"),
            "stop_sequences": (settings.max_stops, "stop strings"),
            "logit_bias": (settings.max_biases, "tokens"),
        }
        self._items = (settings.max_items, "items")
        self._texts = {
            "input": (settings.max_inputs, "texts"),
            "content": (settings.max_inputs, "texts"),
            "prompt": (settings.max_prompts, "prompts"),
        }

    def check_payload(self, payload: object) -> None:
        """Raise InvalidRequest, which names the field, when a decoded body has too much of something."""
        for path, name, value in _fields(payload):
            if name in self._counts:
                self._check(path, value, self._counts[name])
            elif name in self._texts and isinstance(value, list):
                # A list of numbers, or with numbers in it, is one text in tokens.
                if value and isinstance(value[0], dict):
                    self._check(path, value, self._items)
                elif len(value) > self._texts[name][0] and not any(isinstance(one, int) for one in value):
                    self._check(path, value, self._texts[name])

    def check_generation(self, wanted: GenerationRequest, model: ServedModel) -> None:
        """Raise RequestError for a grammar or schemas that are too large, and for a prompt that surely doesn't fit."""
        grammar = wanted.params.grammar
        if grammar is not None and (size := _grammar_size(grammar)) > self._schema_bytes:
            raise self._too_large(wanted.grammar_param, size)
        self.check_functions(wanted.tools, "tools")
        for prompt in wanted.prompts:
            self.check_prompt(prompt, wanted.prompt_param, model)

    def check_functions(self, functions: Sequence[Function], param: str) -> None:
        """Raise InvalidRequest when the functions' schemas are too large together."""
        size = sum(len(msgspec.json.encode(function.parameters)) for function in functions)
        if size > self._schema_bytes:
            raise self._too_large(param, size)

    def check_prompt(self, prompt: PromptText | str | list[int], param: str, model: ServedModel) -> None:
        """Raise ContextLengthExceeded for a text that surely has more tokens than the context: by its size, or by its
        names of special tokens, each of which is one token at least. The engine would take seconds to count them.
        """
        if isinstance(prompt, list):
            return
        context = model.info.context
        text, names = (prompt.text, len(prompt.literal_spans)) if isinstance(prompt, PromptText) else (prompt, 0)
        tokens = max(names, len(text) // model.max_token_bytes if len(text) > _LARGE_TEXT else 0)
        if tokens < context:
            return
        error = ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens, but the prompt has at least {tokens} tokens; "
            "one must be left for the reply. Shorten the prompt.",
            param=param,
        )
        error.prompt_tokens, error.context = tokens, context
        raise error

    def _check(self, path: str, value: object, limit: tuple[int, str]) -> None:
        most, what = limit
        if isinstance(value, Sized) and not isinstance(value, str) and len(value) > most:
            raise InvalidRequest(f"'{path}' may have at most {most} {what}, not {len(value)}.", param=path)

    def _too_large(self, param: str, size: int) -> InvalidRequest:
        return InvalidRequest(
            f"'{param}' is too large: schemas and grammars may have {self._schema_bytes} bytes, not {size}.",
            param=param,
        )


def _fields(payload: object) -> Iterator[tuple[str, str, Any]]:
    """The fields of a body, and those of Ollama's ``options``, each with its path."""
    if not isinstance(payload, msgspec.Struct):
        return
    for name in payload.__struct_fields__:
        value = getattr(payload, name)
        if name == "options" and isinstance(value, msgspec.Struct):
            for inner in value.__struct_fields__:
                yield f"options.{inner}", inner, getattr(value, inner)
        elif value is not None:
            yield name, name, value


def _grammar_size(grammar: Grammar) -> int:
    return sum(len(text or "") for text in (grammar.text, grammar.wrapper, grammar.calls))
