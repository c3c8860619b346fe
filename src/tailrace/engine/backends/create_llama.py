"""Opens a model file with llama.cpp, with the threads and sizes of settings and plan. It logs nothing itself."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.backends import llama
from tailrace.machine.memory_lock import lock_memory
from tailrace.machine.plan import ReplicaPlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.metadata_override import parse_overrides
from tailrace.settings import Settings


def create_llama(
    path: Path,
    settings: Settings,
    replica: ReplicaPlan | None = None,
    *,
    replicas: int = 1,
    log: llama.LogSink | None = None,
    progress: llama.Progress | None = None,
) -> llama.LlamaBackend:
    """The warmed-up backend for the file ``path``. Raises ModelError and ConfigurationError.

    ``replica``: its plan (None: the machine's plan). ``replicas``: engine processes that share the machine's memory.
    """
    replica = replica or make_plan(read_topology(), settings).replicas[0]
    options = llama.LlamaOptions(
        decode_pool=replica.decode,
        prefill_pool=replica.prefill,
        private_weights=replica.node is not None or bool(replica.interleave),
        replicas=replicas,
        node=replica.node,
        ctx=settings.ctx,
        parallel=settings.parallel,
        kv_tokens=settings.kv_tokens,
        batch=settings.prefill_chunk,
        gpu_layers=settings.gpu_layers,
        predicts=settings.speculate in ("auto", "mtp"),
        draft_tokens=0 if settings.speculate == "off" else settings.draft_tokens,
        cache_types=CacheTypes(settings.cache_type_k, settings.cache_type_v),
        overrides=parse_overrides(settings.override_kv),
        rope=_rope(settings),
        mmap=settings.mmap,
        split_mode=settings.split_mode,
        tensor_split=tuple(map(float, settings.tensor_split.split(","))) if settings.tensor_split else (),
        main_gpu=settings.main_gpu,
    )
    backend = llama.LlamaBackend(path, options, log=log, progress=progress)
    backend.warm_up()
    if settings.mlock and (failed := lock_memory()) is not None and log is not None:
        log("warning", f"the model can't be kept in memory (mlock): {failed}")
    return backend


def _rope(settings: Settings) -> llama.RopeOptions:
    scale = 1.0 / settings.rope_scale if settings.rope_scale else 0.0
    return llama.RopeOptions(
        scaling=settings.rope_scaling,
        freq_base=settings.rope_freq_base,
        freq_scale=settings.rope_freq_scale or scale,
        yarn_orig_ctx=settings.yarn_orig_ctx,
        yarn_ext_factor=settings.yarn_ext_factor,
        yarn_attn_factor=settings.yarn_attn_factor,
        yarn_beta_fast=settings.yarn_beta_fast,
        yarn_beta_slow=settings.yarn_beta_slow,
    )
