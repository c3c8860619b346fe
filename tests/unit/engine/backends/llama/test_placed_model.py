"""What a placement knows of a model, from the header of its file."""

from __future__ import annotations

from tailrace.engine.backends.llama.placed_model import model_sizes
from tailrace.models.kv_shape import F16_CACHE, KVShape
from tailrace.models.model_header import ModelFacts, ModelHeader, Tensor


def test_a_hybrid_models_cache_is_counted_once() -> None:
    """Its shape has the heads of all its layers with attention in one layer."""
    shape = KVShape(layers=1, heads=4, key_length=64, value_length=64)
    facts = ModelFacts(
        architecture="qwen35", name=None, quantisation=None, parameters=1, context=1000, chat_template=False, kv=shape
    )
    header = ModelHeader(facts=facts, values={"qwen35.block_count": 8}, tensors=(Tensor("blk.0.a", 0, (32, 1)),))
    sizes = model_sizes(header, 0, F16_CACHE)
    assert sizes.layers * sizes.kv_bytes == shape.token_bytes(F16_CACHE) * 1000
