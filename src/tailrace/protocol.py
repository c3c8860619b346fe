"""The contract between the HTTP process and the engine process, and nothing else.

The HTTP process sends ``Submit`` and ``Cancel``; an engine sends ``Hello`` once, then ``Accepted`` or ``Refused`` for
each submit. It sends one ``Step`` for each engine step, with every request's new tokens, and a ``Heartbeat`` at least
once a second. In a cluster a ``PrefixReport`` says which prefixes it holds. Messages are msgpack on the wire (``ipc``
frames them). Each replica of the engine has a connection.

A submitted id ends in exactly one of: ``Refused``, a ``Finished`` or a ``Failed`` inside a ``Step``, the client's own
``Cancel`` (which is not answered), or the end of the connection.

Queries are no generations: ``Tokenize`` is answered with ``Tokenized``, ``Embed`` with one ``Embedded`` for each input,
``Rank`` with one ``Ranked`` for each document, ``Score`` with ``Scored``. A query may also be ``Refused``, or
``Failed`` in a step.
"""

from __future__ import annotations

from operator import add
from typing import Annotated, Literal

import msgspec

from tailrace.generation_params import GenerationParams, seeded
from tailrace.prompt_text import PromptText
from tailrace.worker_protocol.device_reading import DeviceReading

#: Raised when a message changes its meaning; the handshake refuses another number.
PROTOCOL_VERSION = 8

FinishReason = Literal["stop", "length"]
RefusalCode = Literal["context_length_exceeded", "invalid_prompt", "invalid_grammar", "unsupported", "unavailable"]
#: Which of a request's fields is at fault. Dialects have names of their own for the prompt.
RefusedField = Literal["prompt", "suffix", "prediction", "logit_bias", "query"]
#: What a reranker gives a document: an unbounded number, or the probability that the document answers the query.
RankScore = Literal["logit", "probability"]
#: How a text's embeddings of tokens become one vector: their mean, the first token's or the last one's.
Pooling = Literal["mean", "cls", "last"]


class Submit(msgspec.Struct, tag="submit", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for one generation, or for several ``copies`` with the same prompt. ``id`` is unique among all requests that
    the HTTP process has in flight.

    ``prompt`` is text (tokenised by the engine) or token ids. The copies have the ids from ``id`` on, and each ends in
    a terminal event of its own. Before the engine's first answer a ``Cancel`` of ``id`` ends all of them.
    """

    id: int
    prompt: PromptText | list[int]
    params: GenerationParams = GenerationParams()
    copies: Annotated[int, msgspec.Meta(ge=1)] = 1  #: how many generations; copy i has the seed of ``seeded``
    progress: bool = False  #: whether ``Progress`` is sent while the prompt is computed
    caller: str = ""  #: whose request it is: the engine shares its time between callers

    def copy_number(self, number: int) -> Submit:
        """The submit of one of the copies alone."""
        return msgspec.structs.replace(self, id=self.id + number, params=seeded(self.params, number), copies=1)


class Tokenize(msgspec.Struct, tag="tokenize", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the tokens of ``text``. ``parse_special``: special tokens are recognised by their names. ``add_special``:
    with the tokens that the model wants around a text; None is as in a ``Submit``'s prompt.
    """

    id: int
    text: PromptText
    parse_special: bool = True
    add_special: bool | None = None
    caller: str = ""  #: see ``Submit``


class Embed(msgspec.Struct, tag="embed", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for one vector for each input (plain text, or token ids). ``pooling`` None is the model's own."""

    id: int
    inputs: list[str | list[int]]
    pooling: Pooling | None = None
    caller: str = ""  #: see ``Submit``


class Rank(msgspec.Struct, tag="rank", frozen=True, kw_only=True, omit_defaults=True):
    """Ask how well each document answers the query. Special tokens' names are plain text in all of them.

    A document that doesn't fit into the context beside the query is refused. With ``truncate`` it is cut instead, at
    its end, or at its start with ``keep_end``; and to ``document_tokens``, where they are given.
    """

    id: int
    query: str
    documents: list[str]
    truncate: bool = False
    keep_end: bool = False
    document_tokens: int | None = None
    caller: str = ""  #: see ``Submit``


class Score(msgspec.Struct, tag="score", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the probability of each of the prompt's tokens after those before it, and of the ``top`` likeliest."""

    id: int
    prompt: str | list[int]
    top: int = 0
    caller: str = ""  #: see ``Submit``


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Stop a generation; nothing more is sent for the id once the engine has read this."""

    id: int


class DeviceShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one device has of a placed model. Bytes are those of its memory."""

    name: str  #: ``local``, a worker's address, or llama.cpp's name of a GPU
    layers: int  #: whose attention it computes
    tensors: int
    weights_bytes: int
    kv_bytes: int  #: planned: for one context
    cache_bytes: int | None = None  #: of the KV cache and recurrent states, as llama.cpp tells; None: it doesn't
    compute_bytes: int | None = None  #: what passes need beside them, as llama.cpp tells
    free_bytes: int  #: after loading
    total_bytes: int


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the HTTP process must know of the loaded model."""

    architecture: str
    description: str
    parameters: int
    size_bytes: int
    context: int  #: tokens of prompt and reply together that one request may have
    context_trained: int
    kv_cells: int  #: tokens that fit into the KV cache, all requests together
    parallel: int  #: requests decoded at the same time
    chat_template: str | None
    chat_template_defect: str | None = None  #: why the template can't be used; the engine has tried it
    bos_token: str
    eos_token: str
    generates: bool = True  #: False: it makes embeddings or ranks documents, and writes nothing
    infill: bool = False  #: whether it has tokens for filling in the middle
    #: Its tokens for filling in the middle: those it has of prefix, suffix, middle, repository and file.
    infill_tokens: dict[str, int] = {}
    start_token: int | None = None  #: the token that begins every text, where the model wants one
    end_tokens: tuple[int, ...] = ()  #: those that end a reply
    embedding_width: int = 0  #: numbers of an embedding; 0 where it makes none
    rank_score: RankScore | None = None  #: what it gives documents; None where it isn't a reranker
    special_tokens: dict[int, str] = {}  #: names of the tokens that control the model, which no text contains
    pass_bytes: int = 0  #: weights that a pass with one token reads from memory; 0: not known
    cell_bytes: int = 0  #: memory of one KV cell
    kernels: str = ""  #: instruction tier of the kernels in use; empty: llama.cpp's own kernels
    fastest_kernels: str = ""  #: the fastest tier that this CPU has; empty: none
    kernels_reason: str = ""  #: why no kernels are in use
    devices: tuple[DeviceShare, ...] = ()  #: of a model that is placed on several, as llama.cpp tells after loading
    placement_differences: tuple[str, ...] = ()  #: from the plan
    prefix_identity: str = ""  #: of its prefixes in a cluster (``prefix_chain``); empty: they aren't reported


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
    """What one engine step brought: request ``ids[i]`` got token ``tokens[i]``; an id may occur more than once.

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


#: What an engine did while bytes went over a link: load the model, compute steps with prompt tokens, or without
#: (``decode``), or something between steps.
LinkUse = Literal["load", "prompt", "decode", "other"]


class LinkTraffic(msgspec.Struct, array_like=True):
    """Bytes that an engine and a worker have exchanged since the engine's start, for one use."""

    steps: int = 0
    sent: int = 0  #: to the worker
    received: int = 0


class LinkFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The connection to a worker, as the engine's kernel counts it since the engine's start."""

    traffic: dict[LinkUse, LinkTraffic]
    sending_seconds: float  #: in which bytes to the worker were on their way
    retransmits: int  #: TCP segments that were sent again
    round_trip: float  #: seconds, a running mean


class WorkerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of a placed model, and the link to it."""

    worker: str  #: its address
    devices: tuple[DeviceReading, ...]  #: as it has reported them last
    link: LinkFigures | None  #: None where this system doesn't count
    receiving_seconds: float | None  #: in which bytes from the worker were on their way; None: it doesn't report that


class SpeedComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a second of a placed model, predicted before it was loaded and measured since."""

    predicted_decode: float  #: of one reply, behind as many tokens as the measured one had
    predicted_prompt: float  #: of a long prompt
    decode: float = 0.0  #: measured; 0: too few steps yet
    prompt: float = 0.0  #: the same of prompts
    reason: str = ""  #: why decoding is much slower or faster than predicted; empty: it isn't


class EngineCounters(msgspec.Struct, array_like=True):
    """An engine's totals since its start. Each part of the engine counts in a struct of its own; the loop adds them
    up, and the HTTP process adds up those of all replicas.
    """

    steps: int = 0
    prefill_tokens: int = 0  #: prompt tokens computed
    decode_tokens: int = 0  #: tokens sampled
    prefix_queries: int = 0  #: prompt tokens looked up in the prefix cache
    prefix_hits: int = 0  #: of them found
    preemptions: int = 0  #: sequences paused for want of cells, or for another caller or a more urgent request
    drafts: int = 0  #: times that draft tokens were checked for a sequence
    draft_tokens: int = 0  #: draft tokens that were checked
    accepted_tokens: int = 0  #: of them those that were equal to the sampled token
    schedule_seconds: float = 0.0  #: of steps: drafting, planning, cache operations, and making the batch
    decode_seconds: float = 0.0  #: the model's passes, without the wait for masks after them
    mask_wait_seconds: float = 0.0  #: steps that waited for grammars' masks after the model's pass
    sample_seconds: float = 0.0  #: choosing the next tokens
    publish_seconds: float = 0.0  #: sending the steps' messages, and the accounting after them
    longest_step_seconds: float = 0.0  #: from a step's planning to the end of its accounting; a sum has the larger one
    batch_tokens: int = 0  #: tokens of all steps' batches, draft and jump-forward tokens included
    batch_sequences: int = 0  #: sequences of all steps' batches; divided by steps: the mean batch
    decode_sequences: int = 0  #: of them, those that decoded
    kv_cells_read: int = 0  #: cells before and in the batches' tokens: what attention reads of a shared or own slot
    embedding_seconds: float = 0.0  #: embedding passes, between the steps
    cancelled: int = 0  #: sequences that ended because their client had gone or a stop string had ended them
    grammars_compiled: int = 0  #: grammars that weren't in the compiler's cache, refused ones included
    grammar_seconds: float = 0.0  #: compiling them, beside the steps
    late_masks: int = 0  #: times that a reply sat out because its grammar's mask wasn't computed in time
    state_reads: int = 0  #: states and pieces of states that were read from devices
    state_read_bytes: int = 0
    state_read_seconds: float = 0.0  #: between steps, or while one waited
    state_writes: int = 0  #: states and pieces of states that were written to devices
    state_write_bytes: int = 0
    state_write_seconds: float = 0.0

    @property
    def step_seconds(self) -> float:
        """The time of all steps."""
        return (
            self.schedule_seconds
            + self.decode_seconds
            + self.mask_wait_seconds
            + self.sample_seconds
            + self.publish_seconds
        )

    def __add__(self, other: EngineCounters) -> EngineCounters:
        total = EngineCounters(*map(add, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))
        total.longest_step_seconds = max(self.longest_step_seconds, other.longest_step_seconds)
        return total


class Heartbeat(msgspec.Struct, tag="heartbeat", frozen=True, array_like=True):
    """A sign of life from the loop itself, with its gauges now and its counters since the start."""

    running: int
    waiting: int
    kv_cells_used: int
    counters: EngineCounters = msgspec.field(default_factory=EngineCounters)
    step_tokens: list[int] = []  #: how many steps had so many tokens: the counts of ``observe.buckets.STEP_TOKENS``
    longest_step: float = 0.0  #: seconds; of an engine that has made no step, an upper estimate
    stuck: float = 0.0  #: seconds for which a thread beside the loop has worked on one item
    workers: tuple[WorkerFigures, ...] = ()  #: of a placed model
    speed: SpeedComparison | None = None  #: of a placed model


class PrefixReport(msgspec.Struct, tag="prefixes", frozen=True, array_like=True):
    """An engine's load and prefixes, for a cluster's router: at most every ``cluster_protocol.state.CHANGE_SECONDS``.

    The first one of a connection has all prefixes that are held, the later ones the changes. A speed is 0 until
    it is measured.
    """

    held: tuple[bytes, ...] = ()  #: new or moved blocks of each of ``cluster_protocol.state.TIERS``, packed
    removed: bytes = b""  #: blocks that are no longer held, packed
    waiting_prompt_tokens: int = 0  #: prompt tokens to be computed, of waiting and running sequences
    free_tokens: int = 0  #: tokens that fit before a prefix is dropped
    prefill_speed: float = 0.0  #: prompt tokens a second
    decode_speed: float = 0.0  #: reply tokens a second, of all sequences together
    disk_speed: float = 0.0  #: tokens of a prefix that are read from a file in a second


class Tokenized(msgspec.Struct, tag="tokenized", frozen=True, array_like=True):
    """What was asked with ``Tokenize``."""

    id: int
    tokens: list[int]


class Embedded(msgspec.Struct, tag="embedded", frozen=True, array_like=True):
    """Input number ``index`` of an ``Embed``: little-endian float32, of length 1 as a vector (or all 0)."""

    id: int
    index: int
    tokens: int  #: how many the input had
    vector: bytes


class Ranked(msgspec.Struct, tag="ranked", frozen=True, array_like=True):
    """What a ``Rank``'s document number ``index`` got. ``tokens``: those of the query and the document together."""

    id: int
    index: int
    tokens: int
    score: float  #: as ``ModelInfo.rank_score`` says


class Scored(msgspec.Struct, tag="scored", frozen=True, array_like=True):
    """What was asked with ``Score``: ``logprobs[i]`` is that of ``tokens[i + 1]``."""

    id: int
    tokens: list[int]
    logprobs: list[TokenLogprobs]


#: Requests that aren't generations, and their answers. All but tokens come from embedding passes.
EngineQuery = Tokenize | Embed | Rank | Score
EmbeddingAnswer = Embedded | Ranked | Scored
QueryAnswer = Tokenized | Embedded | Ranked | Scored
ToEngine = Submit | Cancel | Tokenize | Embed | Rank | Score
FromEngine = Hello | Accepted | Refused | Step | Heartbeat | PrefixReport | Tokenized | Embedded | Ranked | Scored
