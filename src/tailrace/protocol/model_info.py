"""The loaded model, as its engine describes it in the first message."""

from __future__ import annotations

from typing import Literal

import msgspec

#: A reranker's score of a document: an unbounded number, or the probability that the document answers the query.
RankScore = Literal["logit", "probability"]


class DeviceShare(msgspec.Struct, frozen=True, kw_only=True):
    """One device's share of a placed model. Bytes are those of its memory."""

    name: str  #: ``local``, a worker's address, or llama.cpp's name of a GPU
    layers: int  #: whose attention it computes
    tensors: int
    weights_bytes: int
    kv_bytes: int  #: planned: for one context
    cache_bytes: int | None = None  #: of the KV cache and recurrent states, as llama.cpp reports; None: it doesn't
    compute_bytes: int | None = None  #: what passes need beside them, as llama.cpp reports
    free_bytes: int  #: after loading
    total_bytes: int


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of the loaded model that the HTTP process needs."""

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
    devices: tuple[DeviceShare, ...] = ()  #: of a model that is placed on several, as llama.cpp reports after loading
    placement_differences: tuple[str, ...] = ()  #: from the plan
    prefix_identity: str = ""  #: of its prefixes in a cluster (``prefix_chain``); empty: they aren't reported
