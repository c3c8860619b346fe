"""A model's abilities here, by its header and its files: text, tools, thinking, images, embeddings, fill-in-the-middle.

It renders no template and loads nothing: words of the template and of the metadata decide. A served model's engine
knows more, and its answers count for requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from tailrace.chat.families import FAMILIES
from tailrace.models.model_summary import ModelSummary

_TEMPLATE = "tokenizer.chat_template"
#: llama.cpp's number of the pooling of rerankers (``enum llama_pooling_type``).
RANK = 4
#: GGUF keys of models with fill-in-the-middle tokens.
FILL_KEYS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
#: The names of thinking switches in templates, and harmony's marker, which isn't for reasoning alone.
_SWITCHES = ("enable_thinking", "reasoning_effort", "<|channel|>")
#: Architectures of files that aren't language models: image parts, and models that draw.
_NO_LANGUAGE = frozenset({"clip", "mmproj", "flux", "sd1", "sd3", "sdxl", "wan", "hyvid", "pig", "imatrix"})
_NO_MODELS = frozenset({"adapter", "imatrix", "mmproj", "projector"})

#: ``template``: the model's own; ``prompt``: tailrace describes the tools in the prompt; ``none``: it writes no text.
Tools = Literal["template", "prompt", "none"]


class ModelAbilities(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    text: bool  #: it continues text, in conversations and completions
    tools: Tools
    thinking: bool
    vision: bool = False  #: images are never read here
    embeddings: bool = False
    rerank: bool = False
    infill: bool = False  #: fill-in-the-middle
    problem: str | None = None  #: why it can't be served

    @property
    def words(self) -> tuple[str, ...]:
        """The abilities that work, in words."""
        named = {
            "chat": self.text,
            "tools": self.tools != "none",
            "thinking": self.thinking,
            "fill-in": self.infill,
            "embeddings": self.embeddings,
            "rerank": self.rerank,
        }
        return tuple(name for name, works in named.items() if works)


def model_abilities(summary: ModelSummary) -> ModelAbilities:
    """The abilities of the model with this summary."""
    values, architecture = summary.values, summary.facts.architecture
    kind = values.get("general.type")
    if architecture in _NO_LANGUAGE or kind in _NO_MODELS:
        return ModelAbilities(
            text=False, tools="none", thinking=False, problem=f"it is no language model, but {kind or architecture}"
        )
    pooling = values.get(f"{architecture}.pooling_type")
    if pooling is not None:
        rank = pooling == RANK
        return ModelAbilities(text=False, tools="none", thinking=False, embeddings=not rank, rerank=rank)
    template = values.get(_TEMPLATE)
    source = template if isinstance(template, str) else ""
    return ModelAbilities(
        text=True,
        tools="template" if "tools" in source else "prompt",
        thinking=thinks(source),
        infill=any(key in values for key in FILL_KEYS),
    )


def thinks(template: str, special_tokens: Iterable[str] = ()) -> bool:
    """Whether a model has a thinking switch, or its family's reasoning markers, in its template or as tokens."""
    family = next(family for family in FAMILIES if family.matches_template(template))
    markers = {marker for thought in family.markup({}).thoughts for marker in thought}
    return any(word in template for word in (*_SWITCHES, *markers)) or not markers.isdisjoint(special_tokens)
