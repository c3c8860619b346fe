"""Opens a model file with llama.cpp, with the threads and sizes of settings and plan. It logs nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from tailrace.engine.backends import llama
from tailrace.engine.backends.llama.devices import has_own_memory
from tailrace.engine.backends.llama.memory_budget import repacked_weights
from tailrace.engine.backends.llama.placed_model import OpenDevices, PlacedModel, open_devices, place_model
from tailrace.engine.backends.llama.placed_speed import measure_devices, prediction
from tailrace.engine.devices.placement import work_of
from tailrace.engine.devices.placement_prediction import MeasuredSpeed
from tailrace.engine.devices.rules import PlacementRules, read_rules
from tailrace.engine.devices.speed_watch import SpeedWatch
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.memory_lock import lock_memory
from tailrace.machine.plan import ReplicaPlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.metadata_override import parse_overrides
from tailrace.models.model_header import read_facts
from tailrace.serving.device_list import DeviceList, planned_devices
from tailrace.settings import Settings
from tailrace.worker_protocol.status import WorkerStatus

_NO_PREDICTION = "the speed of the placement isn't predicted"


def create_llama(
    path: Path,
    settings: Settings,
    replica: ReplicaPlan | None = None,
    *,
    replicas: int = 1,
    workers: Mapping[str, WorkerStatus] | None = None,
    log: llama.LogSink | None = None,
    progress: llama.Progress | None = None,
) -> llama.LlamaBackend:
    """The warmed-up backend for the file ``path``. Raises ModelError and ConfigurationError.

    ``replica``: its plan (None: the machine's plan). ``replicas``: engine processes that share the machine's memory.
    ``workers``: the reports of the settings' workers, by their addresses; None: the model is on this machine, whatever
    the settings say. A device that hasn't the memory for its layers gets fewer, until it has.
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
    wanted = None if workers is None else planned_devices(settings, has_gpu=has_own_memory())
    if workers is not None and wanted is None:
        _check_no_rules(settings)
    measured = None
    if wanted is not None and workers is not None:
        opened = open_devices(wanted, workers)
        measured = _measure(path, wanted, workers, options, opened)
        placed = _place(path, settings, opened, measured, options, local=wanted.local)
        options = replace(options, placed=placed)
    backend = _load(path, options, log, progress)
    if measured is not None:
        backend.speed_watch = _speed_watch(path, backend, measured, options)
    if settings.mlock and (failed := lock_memory()) is not None and log is not None:
        log("warning", f"the model can't be kept in memory (mlock): {failed}")
    return backend


def _check_no_rules(settings: Settings) -> None:
    """The CPU computes the whole model. Raises ConfigurationError where a user's rules divide it."""
    if read_rules(settings.placement).bind:
        raise ConfigurationError(
            "placement has rules for devices, and there is none beside this machine's CPU: set --devices"
        )


def _place(
    path: Path,
    settings: Settings,
    opened: OpenDevices,
    measured: tuple[MeasuredSpeed, ...] | None,
    options: llama.LlamaOptions,
    *,
    local: bool,
) -> PlacedModel:
    """The model's placement. Without measured speeds of the devices it is made with assumed ones."""
    place = partial(
        place_model,
        path,
        opened,
        measured,
        local=local,
        gpu_layers=settings.gpu_layers,
        work=work_of(
            read_facts(path), settings.kv_tokens or settings.ctx, parallel=settings.parallel, batch=options.batch
        ),
        cache_types=options.cache_types,
        predicts=options.predicts,
    )
    rules = read_rules(settings.placement)
    try:
        placed = place(rules)
    except ConfigurationError as error:
        if not rules.remembered:
            raise
        structlog.get_logger().warning("the placement that tailrace tune remembers is passed over", reason=str(error))
        return place(PlacementRules())
    if rules.remembered:
        structlog.get_logger().info("the placement is the one that tailrace tune remembers")
    return placed


def _measure(
    path: Path,
    wanted: DeviceList,
    workers: Mapping[str, WorkerStatus],
    options: llama.LlamaOptions,
    opened: OpenDevices,
) -> tuple[MeasuredSpeed, ...] | None:
    """The speeds of the devices; None where one can't be measured, which the log says."""
    try:
        return measure_devices(
            path,
            opened.handles,
            wanted,
            workers,
            threads=options.decode_pool.threads,
            # Layers beside the CPU don't decide how it computes its own.
            repacks=repacked_weights(path, replace(options, gpu_layers=0)) > 0,
        )
    except ModelError as error:
        structlog.get_logger().warning(_NO_PREDICTION, reason=str(error))
        return None


def _speed_watch(
    path: Path, backend: llama.LlamaBackend, measured: tuple[MeasuredSpeed, ...], options: llama.LlamaOptions
) -> SpeedWatch | None:
    """The comparison of the speed with the predicted one; None where this model's can't be predicted."""
    assert backend.placed is not None
    assert backend.placement is not None
    try:
        seconds = prediction(path, backend.placed, measured, options.batch)
    except ModelError as error:
        structlog.get_logger().warning(_NO_PREDICTION, reason=str(error))
        return None
    return SpeedWatch(seconds, backend.placement.differences)


def _load(
    path: Path, options: llama.LlamaOptions, log: llama.LogSink | None, progress: llama.Progress | None
) -> llama.LlamaBackend:
    """The warmed-up backend, with fewer layers on devices where one of them hasn't the memory. That is logged once."""
    planned = placed = options.placed
    errors: list[str] = []
    loading = placed is not None

    def note(level: str, line: str) -> None:
        if loading and level == "error":
            errors.append(line)
            level = "info"  # The next placement may fit.
        if log is not None:
            log(level, line)

    while True:
        errors.clear()
        try:
            backend = llama.LlamaBackend(path, replace(options, placed=placed), log=note, progress=progress)
        except ModelError as error:
            smaller = None if placed is None else placed.smaller("\n".join(errors))
            if smaller is None:
                raise ModelError(f"{error}: {errors[0]}" if errors else str(error)) from error
            placed = smaller
            continue
        loading = False
        if planned is not None and placed is not None and placed is not planned and log is not None:
            log("warning", f"a device had less memory than it reported: {_changes(planned, placed)}")
        backend.warm_up()
        return backend


def _changes(planned: PlacedModel, placed: PlacedModel) -> str:
    """The shares of devices that have more or less than planned."""
    before, now = planned.plan.shares(), placed.plan.shares()
    return ", ".join(f"{name} has {now[name]}, planned was {before[name]}" for name in now if now[name] != before[name])


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
