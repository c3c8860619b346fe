"""Translates ``/api/create`` and ``/api/copy`` into derived models.

A derived model is another model with a system prompt, parameters, a template and first messages. It has no weights of
its own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from tailrace.chat.template_trial import find_defect
from tailrace.errors import InvalidRequest
from tailrace.models.derived_models import DerivedModel
from tailrace.server.dialects.ollama import modelfile
from tailrace.server.dialects.ollama.chat import ChatMessage
from tailrace.server.dialects.ollama.options import TRUNCATED, Options, refuse_unsupported

#: How Go's templates begin, which are Ollama's: a field, or an action that Jinja writes otherwise.
_GO = re.compile(r"\{\{-?\s*(?:\.|\$|(?:if|else|end|range|with|template|block|define|break|continue)\b|/\*)")


class CreateRequest(msgspec.Struct):
    """The body of ``/api/create``. Older clients send the same fields as text in ``modelfile``."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    system: str | None = None
    template: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[ChatMessage] | None = None
    license: str | list[str] | None = None
    modelfile: str | None = None
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    quantize: str | None = None
    quantization: str | None = None
    path: str | None = None


class CopyRequest(msgspec.Struct):
    """The body of ``/api/copy``."""

    source: str | None = None
    destination: str | None = None


_REFUSED = {
    "files": "models aren't uploaded here; put a GGUF file into the store by hand.",
    "adapters": "adapters are not supported.",
    "quantize": "models aren't quantised here; fetch or make a file of the form you want.",
    "quantization": "models aren't quantised here; fetch or make a file of the form you want.",
    "path": "files of this machine aren't read for clients; send 'from', or the Modelfile's text as 'modelfile'.",
}


def expand_modelfile(request: CreateRequest) -> CreateRequest:
    """The request with its Modelfile's instructions as fields. Raises InvalidRequest for unsupported ones."""
    for field, why in _REFUSED.items():
        if getattr(request, field):
            raise InvalidRequest(f"'{field}': {why}", param=field, code="unsupported_value")
    if not request.modelfile:
        return request
    parameters: dict[str, Any] = {}
    messages: list[ChatMessage] = []
    licenses: list[str] = []
    fields: dict[str, Any] = {}
    for instruction in modelfile.parse(request.modelfile):
        if instruction.kind == "parameter":
            if instruction.name == "stop":
                parameters.setdefault("stop", []).append(instruction.value)
            else:
                parameters[instruction.name] = instruction.value
        elif instruction.kind == "message":
            messages.append(ChatMessage(role=instruction.name, content=instruction.value))  # type: ignore[arg-type]  # the parser has checked the role
        elif instruction.kind == "license":
            licenses.append(instruction.value)
        elif instruction.kind in ("from", "system", "template"):
            fields["from_" if instruction.kind == "from" else instruction.kind] = instruction.value
        else:
            kind = instruction.kind.upper()[:40]
            raise InvalidRequest(f"'modelfile': '{kind}' can't be honoured here; leave it out.", param="modelfile")
    return msgspec.structs.replace(
        request,
        **{name: value for name, value in fields.items() if getattr(request, name) is None},
        parameters={**_typed(parameters), **(request.parameters or {})},
        messages=request.messages or messages,
        license=request.license or licenses,
    )


def entry(request: CreateRequest, base: str, under: DerivedModel | None) -> DerivedModel:
    """The derived model of ``base``, or of the derived model ``under``, which has that base. A template is tried, which
    takes half a second. Raises InvalidRequest.
    """
    inherited = under or DerivedModel(base=base)
    licenses = [request.license] if isinstance(request.license, str) else request.license
    return DerivedModel(
        base=base,
        system=inherited.system if request.system is None else request.system,
        template=inherited.template if not request.template else _template(request.template),
        parameters={**inherited.parameters, **checked_parameters(request.parameters or {})},
        messages=[_message(message) for message in request.messages] if request.messages else inherited.messages,
        license=licenses or inherited.license,
        modified=datetime.now(UTC),
    )


def _template(text: str) -> str:
    if _GO.search(text):
        raise InvalidRequest(
            "'template': Ollama's template language (Go's) isn't run here. Leave it out for the model's own template, "
            "or send one in Jinja, as model files have it.",
            param="template",
            code="unsupported_value",
        )
    if (defect := find_defect(text)) is not None:
        raise InvalidRequest(f"'template': {defect}.", param="template")
    return text


def checked_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters as options, which are checked as a request's are. Raises InvalidRequest."""
    known = {field.name: field for field in msgspec.structs.fields(Options)}
    for name in given:
        if name not in known:
            raise InvalidRequest(f"'parameters.{name[:80]}': there is no such parameter.", param="parameters")
    try:
        options = msgspec.convert(_whole(given), Options)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid value in 'parameters': {error}.", param="parameters") from None
    refuse_unsupported(options)
    return {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}


def _whole(given: dict[str, Any]) -> dict[str, Any]:
    """Floats of integer options without their fraction, as in a request."""
    return {
        name: int(value) if name in TRUNCATED.names and isinstance(value, float) and abs(value) < 2**63 else value
        for name, value in given.items()
    }


def _typed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Texts of a Modelfile as the numbers and booleans that the options are."""
    typed: dict[str, Any] = {}
    for name, value in parameters.items():
        typed[name] = value
        if isinstance(value, str):
            try:
                decoded = msgspec.json.decode(value.strip().lower())
            except msgspec.DecodeError:
                continue
            if isinstance(decoded, int | float | bool):
                typed[name] = decoded
    return typed


def _message(message: ChatMessage) -> dict[str, Any]:
    if message.role not in ("system", "user", "assistant") or message.images or message.tool_calls:
        raise InvalidRequest(
            "'messages': a model's own messages are texts of the system, the user and the assistant.", param="messages"
        )
    return {"role": message.role, "content": message.content or ""}
