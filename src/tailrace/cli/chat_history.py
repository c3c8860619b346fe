"""The state of a conversation in the terminal: its messages and the parameters of replies. No I/O.

Its saved form is the body of a chat completion request, so that ``curl -d @file`` asks a server the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

from tailrace.chat.messages import Message
from tailrace.errors import ConfigurationError, InvalidRequest
from tailrace.generation_params import Sampling

_DEFAULTS = Sampling()


_Temperature = Annotated[float, Meta(ge=0, le=100)]
_TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
_Part = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(gt=0, le=10)]
_Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_MaxTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class _Changeable(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters that ``/set`` can change."""

    def changed(self, name: str, value: object) -> Self:
        """A copy with one value, which may be text. Raises InvalidRequest with the reason."""
        if name not in self.__struct_fields__:
            raise InvalidRequest(f"{name} can't be set; {', '.join(self.__struct_fields__)} can")
        try:
            return msgspec.convert({**msgspec.structs.asdict(self), name: value}, type(self), strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).partition(" - at ")[0]
            raise InvalidRequest(f"{name} can't be {value}: {reason}", param=name) from None


class Parameters(_Changeable, frozen=True, kw_only=True):
    """The parameters of a model in this process, with the API's names, ranges and defaults."""

    temperature: _Temperature = _DEFAULTS.temperature
    top_k: _TopK = _DEFAULTS.top_k
    top_p: _Part = _DEFAULTS.top_p
    min_p: _Part = _DEFAULTS.min_p
    repeat_penalty: _Penalty = _DEFAULTS.repeat_penalty
    seed: _Seed | None = None  #: None and -1: another one for each reply
    max_tokens: _MaxTokens | None = None  #: None: until the model stops

    @property
    def sampling(self) -> Sampling:
        """The same for the engine, as the API makes it."""
        return Sampling(
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            seed=None if self.seed in (None, -1) else self.seed % 2**64,
        )


class ServerParameters(_Changeable, frozen=True, kw_only=True):
    """The parameters of requests to a server. None: the server's own default holds, and nothing is sent."""

    temperature: _Temperature | None = None
    top_k: _TopK | None = None
    top_p: _Part | None = None
    min_p: _Part | None = None
    repeat_penalty: _Penalty | None = None
    seed: _Seed | None = None
    max_tokens: _MaxTokens | None = None


AnyParameters = Parameters | ServerParameters
_Kind = TypeVar("_Kind", Parameters, ServerParameters)


def given_parameters(parameters: _Kind, given: Mapping[str, object]) -> _Kind:
    """``parameters`` with those flags that are set. Raises ConfigurationError."""
    for name, value in given.items():
        if value is not None:
            try:
                parameters = parameters.changed(name, value)
            except InvalidRequest as error:
                raise ConfigurationError(f"--{name.replace('_', '-')}: {error.message}") from None
    return parameters


class _Turn(msgspec.Struct):
    """One saved message."""

    role: Literal["system", "user", "assistant"]
    content: str


class _Saved(msgspec.Struct):
    """The part of a saved conversation that isn't a parameter."""

    messages: list[_Turn]


class ChatHistory:
    """The system text, the turns so far and the parameters."""

    def __init__(self, system: str | None = None, parameters: AnyParameters | None = None) -> None:
        self.system = system
        self.turns: list[Message] = []
        self.parameters: AnyParameters = parameters or Parameters()

    @property
    def messages(self) -> list[Message]:
        """The messages of the next prompt."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]

    def ask(self, text: str) -> None:
        """The user says ``text``."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """The model has replied ``text``."""
        self.turns.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Drop the last turn: it has no answer."""
        self.turns.pop()

    def clear(self) -> None:
        """Drop every turn; system text and parameters stay."""
        self.turns.clear()

    def encode(self) -> bytes:
        """The saved form; parameters that are None are left out."""
        parameters = {
            name: value for name, value in msgspec.structs.asdict(self.parameters).items() if value is not None
        }
        return msgspec.json.format(msgspec.json.encode({"messages": self.messages, **parameters}), indent=2) + b"\n"

    def restore(self, data: bytes) -> None:
        """Take over a saved conversation. Raises InvalidRequest, and changes nothing then."""
        try:
            saved = msgspec.json.decode(data, type=_Saved)
            parameters = msgspec.json.decode(data, type=type(self.parameters))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"that is no saved conversation: {error}") from None
        self.system = "\n\n".join(turn.content for turn in saved.messages if turn.role == "system") or None
        self.turns = [_message(turn) for turn in saved.messages if turn.role != "system"]
        self.parameters = parameters


def _message(turn: _Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": turn.content}
