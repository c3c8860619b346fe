"""The messages of an engine about requests: which it accepts, the tokens of each step, answers to queries."""

from __future__ import annotations

from typing import Literal

import msgspec

from tailrace.protocol.engine_reports import Heartbeat, PrefixReport
from tailrace.protocol.model_info import ModelInfo

FinishReason = Literal["stop", "length"]
RefusalCode = Literal["context_length_exceeded", "invalid_prompt", "invalid_grammar", "unsupported", "unavailable"]
#: Which of a request's fields is at fault. Dialects have names of their own for the prompt.
RefusedField = Literal["prompt", "suffix", "prediction", "logit_bias", "query"]


class Hello(msgspec.Struct, tag="hello", frozen=True, array_like=True):
    """The engine's first message: it is loaded and ready.

    ``vocabulary[t]`` is token t's bytes as they appear in text (empty for control tokens).
    """

    protocol: int
    pid: int
    replica: int  #: which of the engines this is, from 0
    model: ModelInfo
    vocabulary: list[bytes]
    name: str = ""  #: the served model's (``serving.model_spec.ModelSpec.name``): several models have engines


class Accepted(msgspec.Struct, tag="accepted", frozen=True, array_like=True):
    """The request is valid and waits for its turn or runs."""

    id: int
    prompt_tokens: int


class Refused(msgspec.Struct, tag="refused", frozen=True, array_like=True):
    """The request can't be run; it has ended. One that is too long has its tokens, or a lower bound of them, and the
    context's.
    """

    id: int
    code: RefusalCode  #: ``unavailable``: not the request's fault; it may be tried again
    message: str
    prompt_tokens: int | None = None
    context: int | None = None
    field: RefusedField = "prompt"


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """A request has ended by itself. ``completion_tokens`` counts every sampled token, the end token included."""

    id: int
    reason: FinishReason
    completion_tokens: int


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """A running request can't go on, and others can: its logits aren't numbers, or its grammar is too complex, say."""

    id: int
    message: str
    by_grammar: bool = False  #: its grammar is at fault


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A request has got its first token."""

    id: int
    cached_tokens: int  #: prompt tokens whose KV was found ready
    prompt_seconds: float = 0.0  #: from the request's admission to its first token


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """So much of a request's prompt has been computed; sent to those that asked, first before any of it is."""

    id: int
    total: int  #: prompt tokens
    cached: int  #: of them those whose KV was found ready
    processed: int  #: computed so far, the cached ones included
    seconds: float  #: since the request's admission


class Predicted(msgspec.Struct, frozen=True, array_like=True):
    """The verified draft tokens from a request's ``prediction``. Those behind the first wrong one count as rejected."""

    id: int
    accepted: int
    rejected: int


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities under the model's own distribution, before penalties and filters."""

    logprob: float
    top: list[tuple[int, float]]  #: the likeliest tokens, best first


class Step(msgspec.Struct, tag="step", frozen=True, array_like=True):
    """The results of one engine step: request ``ids[i]`` got token ``tokens[i]``; an id may occur more than once.

    ``logprobs`` maps the index i to its probabilities, for those requests that asked.
    """

    ids: list[int]
    tokens: list[int]
    started: list[Started]
    finished: list[Finished]
    logprobs: dict[int, TokenLogprobs]
    failed: list[Failed] = []
    predicted: list[Predicted] = []
    progress: list[Progress] = []


class Tokenized(msgspec.Struct, tag="tokenized", frozen=True, array_like=True):
    """The answer to ``Tokenize``."""

    id: int
    tokens: list[int]


class Embedded(msgspec.Struct, tag="embedded", frozen=True, array_like=True):
    """Input number ``index`` of an ``Embed``: little-endian float32, of length 1 as a vector (or all 0)."""

    id: int
    index: int
    tokens: int  #: how many the input had
    vector: bytes


class Ranked(msgspec.Struct, tag="ranked", frozen=True, array_like=True):
    """The score of a ``Rank``'s document number ``index``. ``tokens``: those of the query and the document together."""

    id: int
    index: int
    tokens: int
    score: float  #: as ``ModelInfo.rank_score`` says


class Scored(msgspec.Struct, tag="scored", frozen=True, array_like=True):
    """The answer to ``Score``: ``logprobs[i]`` is that of ``tokens[i + 1]``."""

    id: int
    tokens: list[int]
    logprobs: list[TokenLogprobs]


#: Answers to queries. All but tokens come from embedding passes.
EmbeddingAnswer = Embedded | Ranked | Scored
QueryAnswer = Tokenized | Embedded | Ranked | Scored
FromEngine = Hello | Accepted | Refused | Step | Heartbeat | PrefixReport | Tokenized | Embedded | Ranked | Scored
