"""The parameters of a generation: how its tokens are sampled, when it ends, and the form that the reply must have.

The HTTP process sets them, and the engine reads them in a ``Submit`` (``protocol``). What is sent is decided there.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

GrammarKind = Literal["json_schema", "regex", "choice", "lark", "gbnf", "calls"]

#: The samplers that ``Sampling.samplers`` can name, in the order in which they act by default.
SamplerName = Literal[
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
    "infill",
    "adaptive_p",
]
#: Samplers that act only if a request names them.
_ONLY_IF_NAMED: frozenset[SamplerName] = frozenset({"infill", "adaptive_p"})
#: The samplers that act if ``Sampling.samplers`` is None, in order.
SAMPLER_ORDER: tuple[SamplerName, ...] = tuple(name for name in get_args(SamplerName) if name not in _ONLY_IF_NAMED)


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen, with llama.cpp's names, defaults and meaning. ``logit_bias`` acts first, then each
    of ``samplers`` in order, then one token is drawn. With ``mirostat`` only bias and temperature act beside it.
    """

    temperature: float = 0.8
    top_k: int = 40  #: 0 keeps the whole vocabulary
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0  #: over the last ``repeat_last_n`` tokens of prompt and reply
    repeat_last_n: int = 64  #: -1 is the whole sequence
    frequency_penalty: float = 0.0  #: per occurrence in the reply
    presence_penalty: float = 0.0  #: once for each token of the reply
    penalize_nl: bool = True  #: whether the three penalties count line breaks
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    typical_p: float = 1.0
    top_n_sigma: float = -1.0  #: standard deviations below the best logit; 0 and less is off
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1  #: over 0.5 is off
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    dry_multiplier: float = 0.0  #: 0 is off
    dry_base: float = 1.75  #: from 1
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64  #: -1 is the whole sequence
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0  #: version 1 or 2; 0 is off
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0  #: a probability, where ``samplers`` has ``adaptive_p``; less than 0 is off
    adaptive_decay: float = 0.9
    min_keep: int = 0  #: candidates that the filters leave at least
    samplers: tuple[SamplerName, ...] | None = None  #: None is ``SAMPLER_ORDER``


class Trigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text at which a lazily constrained reply changes its mode. ``next_mode``: the mode after the text, or after the
    call that the text starts.

    ``grammar_prefix``: the beginning of the call, as texts and control tokens; the grammar goes on after it. Empty
    where no call starts. ``start_pieces``: the trigger counts at the mode's start alone, after white space, which may
    also stand between these pieces.
    """

    text: str
    next_mode: int
    grammar_prefix: tuple[str | int, ...] = ()
    start_pieces: tuple[str, ...] = ()


class LazyTriggers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a lazy grammar begins in a reply that is otherwise unconstrained: each mode's triggers, and the first mode.

    ``visible_tokens``: control tokens that are text here. ``optional``: without a compiled grammar the reply is
    unconstrained. ``reply_start``: the part of the reply that the prompt already has.
    """

    modes: tuple[tuple[Trigger, ...], ...]
    first_mode: int = 0
    visible_tokens: tuple[tuple[int, str], ...] = ()
    optional: bool = True
    reply_start: str = ""


class Grammar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The form that a reply must have. ``text`` is the JSON text of a schema or of a list of strings (choice), or a
    regular expression for the whole reply, or a grammar, or the JSON text of a ``CallGrammarSpec`` (calls).

    ``wrapper`` is llguidance's Lark for the whole reply, where ``text`` is only a part of it: ``@body`` in the Lark.
    ``calls`` is the ``CallGrammarSpec`` of ``@calls`` there. ``strict``: a constraint of the schema that no grammar can
    express is refused; otherwise it is left out.

    With ``triggers`` the grammar is lazy: it is that of one call (or of several in one block), and the reply is
    unconstrained outside of calls. ``fallback`` is a grammar of the same kind for a ``text`` that can't be compiled.
    """

    kind: GrammarKind
    text: str
    wrapper: str | None = None
    calls: str | None = None
    strict: bool = False
    triggers: LazyTriggers | None = None
    fallback: str | None = None


class GenerationParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The parameters of one generation, all but its prompt. A dialect sets those that its API has; the HTTP process
    passes the struct on to the engine as it is.
    """

    max_tokens: int | None = None  #: None: until the model stops or the context is full
    min_tokens: int = 0  #: the reply can't end before it has this number of tokens
    sampling: Sampling = Sampling()
    stop_tokens: tuple[int, ...] = ()  #: token ids that end the reply, beside the model's own end tokens
    ignore_eos: bool = False  #: the model's own end tokens don't end the reply
    priority: int = 0  #: of one caller: requests with a smaller number start first; equal ones in order of arrival
    logprobs: int | None = None  #: None: none; k: those of each chosen token and of the k likeliest tokens
    logprobs_after_sampling: bool = False  #: take them after penalties and filters instead of before
    grammar: Grammar | None = None  #: what the reply must look like
    prediction: str | None = None  #: text that the reply is likely to repeat: draft tokens come from it
    suffix: str | None = None  #: the text after the reply, for models with fill-in-the-middle tokens
    reuse_prefix: bool = True  #: whether the prompt may be taken from the prefix cache


def seeded(params: GenerationParams, number: int) -> GenerationParams:
    """The parameters with the seed of copy, or round, ``number``: equal seeds would give equal replies."""
    sampling = params.sampling
    if sampling.seed is None or not number:
        return params
    return msgspec.structs.replace(
        params, sampling=msgspec.structs.replace(sampling, seed=(sampling.seed + number) % 2**64)
    )
