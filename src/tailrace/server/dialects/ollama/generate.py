"""Ollama's ``POST /api/generate``: a prompt in the chat template, as it is with ``raw``, or the text around a gap."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.chat.messages import Message
from tailrace.errors import InvalidRequest
from tailrace.server.dialects.ollama.reply import ReplyShape
from tailrace.server.dialects.ollama.shared_fields import SharedFields, check, conversation, raw, refuse_images
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel


class GenerateRequest(SharedFields):
    """The body of a generation. A request without a prompt only loads the model."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[Any] | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None

    @property
    def is_empty(self) -> bool:
        """See ``SharedFields``."""
        return not self.prompt and not self.suffix and not self.images


#: Unsupported fields; an empty value is accepted.
_REFUSED = {
    "template": "Ollama's templates are not run here; the model's own is used, or with 'raw' none.",
    "width": "images are not made here.",
    "height": "images are not made here.",
    "steps": "images are not made here.",
}

decoder = msgspec.json.Decoder(GenerateRequest)


def check_context(request: GenerateRequest, vocabulary: int) -> None:
    """Raise InvalidRequest when ``context`` doesn't fit the request, or has ids that aren't the model's tokens."""
    if not request.context:
        return
    if request.raw or request.suffix:
        kind = "a raw prompt" if request.raw else "a text with a gap"
        raise InvalidRequest(f"'context' has no place in {kind}; leave it out.", param="context")
    if not all(0 <= token < vocabulary for token in request.context):
        raise InvalidRequest(
            f"'context' must be the tokens that an earlier reply of this model has brought: ids from 0 to "
            f"{vocabulary - 1}.",
            param="context",
        )


def check_fields(request: GenerateRequest) -> None:
    """Raise InvalidRequest for what is wrong whatever the model is."""
    check(request)
    refuse_images(request.images, "images")
    for name, why in _REFUSED.items():
        if getattr(request, name):
            raise InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")
    if request.system and (request.raw or request.suffix):
        kind = "a raw prompt" if request.raw else "a text with a gap"
        raise InvalidRequest(f"'system' has no place in {kind}; put it into the prompt.", param="system")


def prepare(request: GenerateRequest, model: ServedModel, *, inline_reasoning: bool) -> GenerationRequest:
    """Translate the request, which ``check_fields`` has accepted, into a generation. Raises InvalidRequest."""
    prompt = request.prompt or ""
    if request.raw or request.suffix:
        if request.suffix and not model.info.infill:
            raise InvalidRequest("'suffix': this model has no tokens for filling in the middle.", param="suffix")
        return raw(request, prompt, request.suffix)
    messages: list[Message] = [{"role": "user", "content": prompt}]
    if request.system:
        messages.insert(0, {"role": "system", "content": request.system})
    return conversation(request, model, messages, prompt_param="prompt", inline_reasoning=inline_reasoning)


def _fields(text: str, reasoning: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": text, **({"thinking": reasoning} if reasoning else {})}


SHAPE = ReplyShape(_fields, b'"response":', b"")
