"""The state of a conversation in the terminal: its messages and the parameters of replies. No I/O.

Its saved form is the body of a chat completion request, so that ``curl -d @file`` asks a server the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.messages import Message
from tailrace.errors import InvalidRequest
from tailrace.generation_params import Sampling

_DEFAULTS = Sampling()


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters that ``/set`` can change, with the API's names, ranges and defaults."""

    temperature: Annotated[float, Meta(ge=0, le=100)] = _DEFAULTS.temperature
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = _DEFAULTS.top_k
    top_p: Annotated[float, Meta(ge=0, le=1)] = _DEFAULTS.top_p
    min_p: Annotated[float, Meta(ge=0, le=1)] = _DEFAULTS.min_p
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] = _DEFAULTS.repeat_penalty
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None  #: None and -1: another one for each reply
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None  #: None: until the model stops

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

    def changed(self, name: str, value: object) -> Parameters:
        """A copy with one value, which may be text. Raises InvalidRequest with the reason."""
        if name not in self.__struct_fields__:
            raise InvalidRequest(f"{name} can't be set; {', '.join(self.__struct_fields__)} can")
        try:
            return msgspec.convert({**msgspec.structs.asdict(self), name: value}, Parameters, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).partition(" - at ")[0]
            raise InvalidRequest(f"{name} can't be {value}: {reason}", param=name) from None


class _Turn(msgspec.Struct):
    """One saved message."""

    role: Literal["system", "user", "assistant"]
    content: str


class _Saved(msgspec.Struct):
    """The part of a saved conversation that isn't a parameter."""

    messages: list[_Turn]


class ChatHistory:
    """The system text, the turns so far and the parameters."""

    def __init__(self, system: str | None = None, parameters: Parameters | None = None) -> None:
        self.system = system
        self.turns: list[Message] = []
        self.parameters = parameters or Parameters()

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
            parameters = msgspec.json.decode(data, type=Parameters)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"that is no saved conversation: {error}") from None
        self.system = "\n\n".join(turn.content for turn in saved.messages if turn.role == "system") or None
        self.turns = [_message(turn) for turn in saved.messages if turn.role != "system"]
        self.parameters = parameters


def _message(turn: _Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": turn.content}
