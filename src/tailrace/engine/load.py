"""Makes backend, draft backend and loop as the settings say, with a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tailrace.engine.backends.base import Backend
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.core_share import CoreShare
from tailrace.engine.devices.worker_links import WorkerLinks
from tailrace.engine.devices.worker_watch import connect_workers
from tailrace.engine.kernels import loader
from tailrace.engine.kv_cache.disk_tier import DiskOptions
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sampling import logits_ops
from tailrace.engine.speculation.draft_model import DraftModel, check_vocabulary
from tailrace.engine.speculation.drafter import Drafter
from tailrace.engine.speculation.prediction_layer import PredictionLayer
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.state_identity import state_identity
from tailrace.errors import ConfigurationError, ModelError
from tailrace.folders import cache_folder
from tailrace.machine.free_memory import available_memory
from tailrace.machine.plan import ReplicaPlan
from tailrace.machine.plan_wording import memory_size
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.chat_template import read_chat_template
from tailrace.models.model_reference import locate_model
from tailrace.observe import log_writer
from tailrace.serving import fake_model
from tailrace.settings import FIELDS, Settings
from tailrace.shared_memory.progress_page import ProgressPage

#: Checkpoints for which there is memory by default, and the part of the available memory that they may take.
_CHECKPOINTS = 64
_CHECKPOINT_PART = 1 / 16
#: Settings that are the served model's own: a model that drafts for it has its own numbers.
_MODEL_CHANGES = (
    "override_kv",
    "placement",
    *(name for name in FIELDS if name.startswith(("rope_", "yarn_"))),
)

if TYPE_CHECKING:
    from tailrace.engine.backends import llama
    from tailrace.engine.weights.file_choice import ReportProgress


def load_backend(
    path: Path | None,
    settings: Settings,
    replica: ReplicaPlan | None = None,
    *,
    replicas: int = 1,
    page: ProgressPage | None = None,
    shows_bar: bool = True,
    first: bool = True,
) -> Backend:
    """The backend for the model at ``path``; None: the fake one. Parameters and errors are ``load_llama``'s."""
    backend: Backend = (
        _fake_backend(settings)
        if path is None
        else load_llama(path, settings, replica, replicas=replicas, page=page, shows_bar=shows_bar, first=first)
    )
    if settings.chat_template is not None:
        template = read_chat_template(settings.chat_template)
        backend.info = msgspec.structs.replace(backend.info, chat_template=template)
    return backend


def _fake_backend(settings: Settings) -> FakeBackend:
    model = settings.model
    time.sleep(fake_model.load_seconds(model))
    if reason := fake_model.load_failure(model):
        raise ModelError(reason)
    return FakeBackend(
        ctx=settings.ctx,
        parallel=settings.parallel,
        kv_tokens=settings.kv_tokens,
        batch=settings.prefill_chunk,
        step_seconds=fake_model.step_seconds(),
        weights_mb=fake_model.weights_mb(model),
    )


def load_draft(
    backend: Backend,
    settings: Settings,
    replica: ReplicaPlan | None = None,
    *,
    replicas: int = 1,
    page: ProgressPage | None = None,
    first: bool = True,
) -> Backend | None:
    """The backend that drafts for ``backend``, where the settings want one. Parameters are ``load_llama``'s.

    Raises ModelError and ConfigurationError.
    """
    if settings.speculate != "draft":
        return None
    if settings.draft_model is None:
        raise ConfigurationError("speculate is draft, but no model is named to draft: set --draft-model")
    defaults = Settings()
    own = {name: getattr(defaults, name) for name in _MODEL_CHANGES}
    if settings.draft_devices is not None:
        own["gpu_layers"] = defaults.gpu_layers
    draft_settings = msgspec.structs.replace(
        settings, ctx=backend.info.context, kv_tokens=0, speculate="off", devices=settings.draft_devices, **own
    )
    path = locate_model(settings.draft_model, models_dir=settings.models_dir).path
    draft = load_llama(path, draft_settings, replica, replicas=replicas, page=page, first=first)
    check_vocabulary(draft.vocabulary, backend.vocabulary)
    return draft


def make_loop(
    backend: Backend,
    settings: Settings,
    model: Path | None = None,
    cpus: frozenset[int] = frozenset(),
    draft: Backend | None = None,
    page: ProgressPage | None = None,
    cache: PrefixCache | None = None,
    core_share: CoreShare | None = None,
) -> EngineLoop:
    """The loop that runs ``backend`` as the settings say.

    ``model``: its file; None: the prefix cache has no disk tier. ``cpus``: where helper threads run; empty: anywhere.
    ``draft``: the backend from ``load_draft``, whose slots are emptied. ``page``: where the loop reports its progress.
    ``cache``: what an earlier loop has left; None: the backend's slots are empty. ``core_share``: see ``EngineLoop``.
    """
    loop = EngineLoop(
        backend,
        prefill_chunk=settings.prefill_chunk,
        step_seconds=settings.step_ms / 1e3 if settings.step_ms else None,
        host_cache_tokens=settings.keep_mb * 1_000_000 // backend.bytes_per_cell,
        disk=_disk_options(model, settings, backend) if model is not None and cache is None else None,
        checkpoint_bytes=_checkpoint_bytes(settings, backend),
        cpus=cpus,
        speculator=_speculator(backend, settings, draft),
        page=page,
        cache=cache,
        core_share=core_share,
        prefix_identity=backend.info.prefix_identity,
        long_gap_seconds=settings.log_gap_ms / 1e3,
        worker_links=_worker_links(backend, draft),
        speed_watch=backend.speed_watch,
    )
    for each in (backend, draft):
        if each is not None:
            loop.heartbeats.include(each.counters)
    return loop


def _worker_links(backend: Backend, draft: Backend | None) -> WorkerLinks | None:
    """Those of the draft model, which was loaded last, have the model's, too."""
    if backend.worker_links is None or draft is None:
        return backend.worker_links
    return draft.worker_links or backend.worker_links


def _speculator(backend: Backend, settings: Settings, draft: Backend | None) -> Speculator | None:
    # The fake backend measures the HTTP process: every step brings one token.
    if settings.speculate == "off" or settings.backend == "fake":
        return None
    if backend.prediction_context is not None:
        drafters: list[Drafter] = [PredictionLayer(backend.prediction_context)]
        if settings.speculate == "auto":
            drafters.append(LookupDrafter())
        return Speculator(*drafters, n_draft_max=settings.draft_tokens)
    if draft is None:
        return Speculator(LookupDrafter(), n_draft_max=settings.draft_tokens)
    draft.reset()
    return Speculator(DraftModel(draft, backend.vocabulary), n_draft_max=settings.draft_tokens)


def _checkpoint_bytes(settings: Settings, backend: Backend) -> int:
    """Memory for checkpoints; 0 for a model that needs none."""
    size = backend.rollback.checkpoint_bytes
    if size == 0:
        return 0
    if settings.checkpoint_mb >= 0:
        return settings.checkpoint_mb * 1_000_000
    return min(_CHECKPOINTS * size, round(_CHECKPOINT_PART * available_memory()))


def _disk_options(model: Path, settings: Settings, backend: Backend) -> DiskOptions | None:
    """Each model has a folder of its own: its prefix states mean nothing to another one."""
    if settings.keep_disk_mb <= 0:
        return None
    folder = cache_folder() / "kv" / state_identity(model, settings, backend)
    return DiskOptions(folder, settings.keep_disk_mb * 1_000_000, backend.rollback)


def load_llama(
    path: Path,
    settings: Settings,
    replica: ReplicaPlan | None = None,
    *,
    replicas: int = 1,
    page: ProgressPage | None = None,
    shows_bar: bool = True,
    first: bool = True,
) -> llama.LlamaBackend:
    """The backend for the model at ``path``, in the weight format that the settings choose.

    It is one of ``replicas`` that share the machine. ``replica``: its placement; None: that of the machine's plan.
    ``page``: where the progress and llama.cpp's errors are reported to the supervisor.
    ``shows_bar``: whether a terminal shows a progress bar, which only one process may do. ``first``: no engine of this
    server has served before, so it waits for workers only a little.
    Raises ModelError and ConfigurationError.
    """
    loader.choose(settings.kernels)
    # Compiling them takes seconds, the first time on a machine. No request should wait for that.
    logits_ops.enable_native(settings.kernels)
    # Imported here, because the fake backend works without the binding, also where it can't be loaded.
    from tailrace.engine.backends import llama
    from tailrace.engine.backends.create_llama import create_llama
    from tailrace.engine.backends.llama.placement_report import with_worker_memory
    from tailrace.engine.weights.file_choice import select_weights_file

    log = structlog.get_logger()
    page = page or ProgressPage()

    def log_abort(message: str) -> None:
        page.message = f"llama.cpp aborted: {message}"
        log.critical("llama.cpp aborts", message=message)

    llama.report_aborts(log_abort)
    replica = replica or make_plan(read_topology(), settings).replicas[0]
    watch = connect_workers(settings, page, first=first)
    begun = time.monotonic()

    def log_llama(level: str, line: str) -> None:
        getattr(log, level)(line, source="llama.cpp")
        # The first error is the most exact one.
        if level == "error" and not page.has_served and not page.message:
            page.message = line

    with _progress(path.name, shown=shows_bar and replicas == 1) as show:

        def report(what: str, part: float) -> None:
            show(what, part)
            page.beat(time.monotonic())

        file = select_weights_file(path, settings, report, replica)
        backend = create_llama(
            file,
            settings,
            replica,
            replicas=replicas,
            workers={} if watch is None else watch.statuses,
            log=log_llama,
            progress=lambda part: report(f"loading {file.name}", part),
        )
    if watch is not None:
        backend.worker_links = WorkerLinks(watch.links)
        if backend.placement is not None:
            backend.placement = with_worker_memory(backend.placement, watch.statuses)
            backend.info = msgspec.structs.replace(backend.info, devices=backend.placement.devices)
    if settings.speculate == "mtp" and backend.prediction_context is None:
        raise ConfigurationError(
            f"speculate is mtp, but {path.name} has no prediction layer that can draft: set --speculate auto"
        )
    info = backend.info
    if settings.mmap and replica.node is None and not replica.interleave:
        # Repacked weights are a copy: the kernel may drop their pages of the file.
        page.mapped += max(0, info.size_bytes - backend.repacked_bytes)
    _log_matmul_kernels(log, backend)
    _log_placement(log, backend)
    log.info(
        "model loaded",
        model=info.description,
        seconds=round(time.monotonic() - begun, 2),
        threads=replica.decode.threads,
        context=info.context,
        repacked=f"{backend.repacked_bytes / 1e6:.0f} MB",
        kv_types=" and ".join(dict.fromkeys(backend.cache_types)),
        attention=backend.attention,
        kv_cells=f"{backend.layout.total} to {info.kv_cells}",
        parallel=info.parallel,
    )
    return backend


def _log_matmul_kernels(log: Any, backend: llama.LlamaBackend) -> None:
    """Log which kernels compute the model's matrix products, and whether all weights are repacked that should be."""
    from tailrace.engine.backends.llama.kernel_assignment import OWN_REPACKED, summary

    found = summary(backend.assignments)
    if not found:
        return
    log.info(
        "products computed by",
        **{kernels: f"{count} ({size / 1e6:.0f} MB)" for kernels, (count, size) in found.items()},
    )
    for each in backend.assignments:
        log.debug("product computed by", tensor=each.tensor.name, kernels=each.kernels)
    _, expected = found.get(OWN_REPACKED, (0, 0))
    if backend.repacked_bytes < expected:
        log.warning(
            "weights that should be repacked are computed as the file has them",
            expected=f"{expected / 1e6:.0f} MB",
            repacked=f"{backend.repacked_bytes / 1e6:.0f} MB",
        )


def _log_placement(log: Any, backend: llama.LlamaBackend) -> None:
    """Log what each device has of the model, as llama.cpp reports it."""
    report = backend.placement
    if report is None:
        return
    for each in report.devices:
        log.info(
            "device",
            name=each.name,
            layers=each.layers,
            tensors=each.tensors,
            weights=memory_size(each.weights_bytes),
            kv_cache="unknown" if each.cache_bytes is None else memory_size(each.cache_bytes),
            compute="unknown" if each.compute_bytes is None else memory_size(each.compute_bytes),
            free=memory_size(each.free_bytes),
        )
    if not report.is_known:
        log.warning("this llama.cpp doesn't tell where it has put the tensors")
    for difference in report.differences:
        log.warning("the placement isn't as planned", difference=difference)


@contextlib.contextmanager
def _progress(name: str, *, shown: bool) -> Iterator[ReportProgress]:
    """A progress bar on a terminal. None in a log file, or where the bars of several processes would mix."""
    terminal = log_writer.terminal()
    if not shown or terminal is None:
        yield lambda _, __: None
        return
    # A file's name may look like markup.
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(file=terminal), transient=True) as progress:
        task = progress.add_task(f"loading {name}", total=1.0)
        yield lambda what, part: progress.update(task, description=what, completed=part)
