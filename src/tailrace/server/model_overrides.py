"""The changes of a derived model to the served one: system text, first messages, template, defaults.

A request for a derived model's name gets a ``ServedModel`` with ``ModelOverrides``: ``chat_request`` begins
conversations with them, and they fill the request's empty fields before its dialect reads the fields.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tailrace.chat.messages import Message
from tailrace.models.derived_models import DerivedModel
from tailrace.server.served_model import ServedModel

#: What the dialects call Ollama's options. The first field that a request has is filled in.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "num_predict": ("max_completion_tokens", "max_output_tokens", "max_tokens"),
    "stop": ("stop", "stop_sequences"),
}
#: Fields of one meaning: where a request has one of them, no default is filled in.
_SAME: tuple[tuple[str, ...], ...] = (
    ("max_completion_tokens", "max_output_tokens", "max_tokens", "n_predict"),
    ("repeat_penalty", "repetition_penalty"),
)


class ModelOverrides:
    """The changes of one derived model."""

    def __init__(self, entry: DerivedModel) -> None:
        self.entry = entry

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See ``Overrides``."""
        return self.entry.parameters

    def begin(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with the derived model's messages in front, and its system text unless there is one."""
        begun = [*(dict(message) for message in self.entry.messages), *messages]
        if self.entry.system and (not messages or messages[0]["role"] not in ("system", "developer")):
            begun.insert(0, {"role": "system", "content": self.entry.system})
        return begun

    def fill(self, request: msgspec.Struct) -> None:
        """Set the fields that a request leaves out to the derived model's parameters."""
        fields = request.__struct_fields__
        for name, value in self.entry.parameters.items():
            field = next((field for field in _FIELDS.get(name, (name,)) if field in fields), None)
            if field is None or (name == "num_predict" and value <= 0) or (name == "seed" and value < 0):
                continue
            same = next((group for group in _SAME if field in group), (field,))
            if all(getattr(request, other, None) is None for other in same):
                setattr(request, field, [value] if name == "stop" and isinstance(value, str) else value)


class DerivedModelCache:
    """A ``ServedModel`` for each derived model, made once for each model that an engine has loaded."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], tuple[ServedModel, DerivedModel, ServedModel]] = {}

    def get(self, model: ServedModel, entry: DerivedModel) -> ServedModel | None:
        """``model`` with the derived model's overrides, if it is made already."""
        known = self._made.get((id(model), id(entry)))
        return known[2] if known is not None and known[0] is model and known[1] is entry else None

    def make(self, model: ServedModel, entry: DerivedModel) -> ServedModel:
        """``model`` with the derived model's overrides, and its template if it has one. Trying that takes half a
        second: not for the event loop.
        """
        derived = _derived(model, entry)
        self._made = {key: held for key, held in self._made.items() if held[0] is model}
        self._made[id(model), id(entry)] = (model, entry, derived)
        return derived


def _derived(model: ServedModel, entry: DerivedModel) -> ServedModel:
    made = model.with_template(entry.template) if entry.template else copy.copy(model)
    made.overrides = ModelOverrides(entry)
    return made
