"""What a list of models needs of a header, small enough to be kept: its tensors are only counted."""

from __future__ import annotations

import msgspec

from tailrace.models.model_header import ModelFacts, ModelHeader, Value

#: Characters of a value that is kept. The longest known chat template has 30,000.
_MAX_TEXT = 1_000_000


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of one model's header."""

    facts: ModelFacts
    values: dict[str, Value]  #: by key, except for arrays
    matrices: dict[int, int]  #: weights in tensors of two or more dimensions, by ggml's number of their format
    width: int  #: of an embedding; 0 where the file has none
    vocabulary: int  #: tokens with an embedding


def summarise(header: ModelHeader) -> ModelSummary:
    """The header's summary."""
    matrices: dict[int, int] = {}
    width = vocabulary = 0
    for tensor in header.tensors:
        if len(tensor.dimensions) > 1:
            matrices[tensor.ggml_type] = matrices.get(tensor.ggml_type, 0) + tensor.elements
        if tensor.name == "token_embd.weight":
            width, vocabulary = (*tensor.dimensions, 0, 0)[:2]
    values = {
        key: value for key, value in header.values.items() if not isinstance(value, str) or len(value) <= _MAX_TEXT
    }
    return ModelSummary(facts=header.facts, values=values, matrices=matrices, width=width, vocabulary=vocabulary)
