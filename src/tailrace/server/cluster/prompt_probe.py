"""A request's prompts without a reply: the dialect reads and renders them as usual, and where a generation would begin
their chains of hashes are the answer.

A probe is a request whose scope is marked. ``AppState.start_generation`` is the one place at which all dialects begin a
generation, so it is the one place that ends a probe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import Scope

from tailrace.cluster_protocol.prefix_chain import chain_of, pack_hashes
from tailrace.cluster_protocol.state import PromptChain, PromptChains
from tailrace.errors import NotFound
from tailrace.prompt_text import PromptText
from tailrace.server.choice_group import estimated_tokens
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel

#: The key of an ASGI scope that marks a probe.
_PROBE = "tailrace.prompt_probe"

Tokenise = Callable[[Request, ServedModel, PromptText, str], Awaitable[list[int]]]


class PromptsFound(Exception):  # No error: the probe's answer.
    """The end of a probe."""

    def __init__(self, chains: PromptChains) -> None:
        super().__init__()
        self.chains = chains


def mark_probe(scope: Scope) -> None:
    """Have the request with this scope end where its generation would begin."""
    scope[_PROBE] = True


def is_probe(scope: Scope) -> bool:
    """Whether the request with this scope only asks for its prompts."""
    return _PROBE in scope


def no_prompt() -> NotFound:
    """The error of a probe of a request that begins no generation."""
    return NotFound("This request has no prompt that a reply follows.")


async def end_probe(request: Request, model: ServedModel, wanted: GenerationRequest, tokenise: Tokenise) -> None:
    """Raise PromptsFound for a generation that would begin now. ``tokenise`` has the engine tokenise a text."""
    identity = model.info.prefix_identity
    found: list[PromptChain] = []
    for prompt in wanted.prompts:
        if isinstance(prompt, list):
            tokens = prompt
        elif wanted.params.suffix is not None or not identity:
            found.append(PromptChain(estimated_tokens(prompt, model.info.context), b""))
            continue
        else:
            tokens = await tokenise(request, model, prompt, wanted.prompt_param)
        hashes = pack_hashes(chain_of(identity, tokens)) if identity else b""
        found.append(PromptChain(len(tokens), hashes))
    raise PromptsFound(PromptChains(model=model.name, prompts=found, choices=wanted.choices))
