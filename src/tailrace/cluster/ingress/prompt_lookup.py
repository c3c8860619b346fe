"""Asks a replica for a request's prompts as hashes. By them the request goes to the replica that holds most of them.

Where the question can't be answered, the choice is made by load alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import structlog

from tailrace.cluster.ingress.fetch import FetchFailedError, fetch
from tailrace.cluster.ingress.forwarded_request import ForwardedRequest
from tailrace.cluster.ingress.replicas import Replicas
from tailrace.cluster.routing.sent_requests import Prompt
from tailrace.cluster_protocol.prefix_chain import unpack_hashes
from tailrace.cluster_protocol.state import PromptChains

#: Routes whose requests have a prompt that a reply follows.
GENERATING = frozenset(
    {
        "/chat/completions",
        "/completions",
        "/messages",
        "/responses",
        "/completion",
        "/infill",
        "/api/chat",
        "/api/generate",
    }
)
#: A smaller body has less than a block of tokens.
_MIN_BODY = 400
_MAX_ANSWER = 8_000_000

_decoder = msgspec.json.Decoder(PromptChains)


class LookedUp(NamedTuple):
    """What is known of a request's prompts. ``sequences``: replies to all of them."""

    prompts: Sequence[Prompt] = ()
    sequences: int = 1


async def look_up(request: ForwardedRequest, body: bytes, replicas: Replicas, *, seconds: float) -> LookedUp:
    """The prompts of the request, where several replicas could serve it. ``seconds``: for the answer, at most. A prompt
    of 100,000 tokens is tokenised in 0.2 s.
    """
    if request.path not in GENERATING or request.method != "POST" or len(body) < _MIN_BODY:
        return LookedUp()
    ready = replicas.ready(request.model)
    if len(ready) < 2:
        return LookedUp()
    replica = min(ready, key=lambda each: each.requests)
    _, _, headers = request.head.partition(b"\r\n")
    head = b"POST /cluster/prompt?path=%b HTTP/1.1\r\n%b" % (quote(request.path).encode(), headers)
    began_at = time.monotonic()
    try:
        answer = await fetch(replica, "POST", head, body, seconds=seconds, limit=_MAX_ANSWER)
        chains = _decoder.decode(answer)
        prompts = [Prompt(chain.tokens, unpack_hashes(chain.hashes)) for chain in chains.prompts]
    except FetchFailedError:
        return LookedUp()  # The request itself gets the replica's error.
    except ValueError as error:
        structlog.get_logger().warning("a replica's answer can't be read", replica=replica.view.id, error=str(error))
        return LookedUp()
    replicas.counts.probed(request.model or "", time.monotonic() - began_at)
    return LookedUp(prompts, chains.choices * max(1, len(prompts)))
