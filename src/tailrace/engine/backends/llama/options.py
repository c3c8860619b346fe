"""The options of loading a model with llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailrace.machine.plan import PoolPlan
from tailrace.models.kv_shape import F16_CACHE, CacheTypes
from tailrace.models.metadata_override import MetadataOverride

if TYPE_CHECKING:
    from tailrace.engine.backends.llama.placed_model import PlacedModel


@dataclass(frozen=True, kw_only=True)
class RopeOptions:
    """How positions are rotated, by llama.cpp's names. The defaults are the model's own values."""

    scaling: str = "model"  #: model, none, linear or yarn
    freq_base: float = 0.0
    freq_scale: float = 0.0  #: positions are multiplied by it
    yarn_orig_ctx: int = 0  #: tokens that the model was trained for before YaRN
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0


@dataclass(frozen=True, kw_only=True)
class LlamaOptions:
    """How to load a model. ``ctx`` and ``kv_tokens`` 0 mean: choose from the model and the available memory."""

    decode_pool: PoolPlan
    prefill_pool: PoolPlan
    ctx: int  #: tokens of one request, at most
    parallel: int  #: requests at the same time, at most
    kv_tokens: int  #: cells of the KV cache, at most
    batch: int  #: tokens of one ``decode``, at most
    gpu_layers: int
    private_weights: bool = False  #: read the weights into memory of this process instead of mapping the file
    replicas: int = 1  #: engine processes that share the machine's memory
    node: int | None = None  #: the NUMA node that memory is bound to
    cache_types: CacheTypes = F16_CACHE
    predicts: bool = False  #: draft with the model's prediction layer, where it has one
    draft_tokens: int = 0  #: draft tokens that a slot may have to drop after a pass; 0: no speculation
    overrides: tuple[MetadataOverride, ...] = ()
    rope: RopeOptions = RopeOptions()
    mmap: bool = True  #: map the file, where its weights aren't private
    split_mode: str = "layer"  #: how GPUs share the model: none, layer or row
    tensor_split: tuple[float, ...] = ()  #: the GPUs' parts; empty: by their free memory
    main_gpu: int = 0  #: the GPU that has the whole model with ``split_mode`` none
    placed: PlacedModel | None = None  #: the devices of the model's parts; None: ``gpu_layers`` says how many a GPU has
