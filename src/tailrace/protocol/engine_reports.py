"""The reports of an engine that runs: its counters, its links to workers, its prefixes."""

from __future__ import annotations

from operator import add
from typing import Literal

import msgspec

from tailrace.worker_protocol.device_reading import DeviceReading

#: The work of an engine while bytes went over a link: load the model, compute steps with prompt tokens, or without
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
