"""The compiled llama.cpp has the backends that tailrace relies on."""

from __future__ import annotations

from tailrace.engine.backends.llama import LlamaBackend, LlamaOptions, devices
from tailrace.engine.kernels import loader
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.plan import PoolPlan
from tailrace.models.model_reference import locate_model


def test_there_is_a_gpu_only_where_the_machine_has_one() -> None:
    """The RPC backend, which every build has, makes llama.cpp itself say that layers can be on a GPU."""
    assert devices.has_gpu() == offloads(read_gpus(), build_backends())
    assert devices.offered_devices()


def test_the_kernels_compute_where_all_layers_may_be_on_a_gpu_that_is_not_there() -> None:
    options = LlamaOptions(
        decode_pool=PoolPlan(1),
        prefill_pool=PoolPlan(1),
        ctx=512,
        parallel=1,
        kv_tokens=0,
        batch=64,
        gpu_layers=-1,
    )
    backend = LlamaBackend(locate_model("smollm2-135m").path, options)
    try:
        backend.warm_up()
        if loader.status() == "on" and not devices.has_gpu():
            assert backend.attention == "own kernels"
            assert backend.repacked_bytes
    finally:
        backend.close()
