"""Selects the file that a model's weights are loaded from: the original, or a converted file in a faster format.

Each format is converted and measured once; the result is recorded beside the converted file
(``models.converted_files``). Weights change only where the user has set ``--weights``, and each decision is logged with
its reason.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog

from tailrace.engine.weights.quality import WINDOW, Predictions, compare, predict
from tailrace.engine.weights.speed import measure
from tailrace.machine.plan import ReplicaPlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import TuningStore
from tailrace.models.conversion_formats import CONVERSION_FORMATS, ConversionFormat
from tailrace.models.converted_files import ConvertedFile, ConvertedFiles
from tailrace.models.file_fingerprint import fingerprint
from tailrace.models.format_comparison import FormatComparison, Speed
from tailrace.models.model_header import read_facts
from tailrace.models.shards import total_bytes
from tailrace.settings import Settings

#: Receives the activity in words, and its progress from 0 to 1.
ReportProgress = Callable[[str, float], None]

#: The format for each aim where nothing was tuned. ``fast`` is the format whose kernels are the fastest on every CPU
#: for which llama.cpp repacks weights; ``near-lossless`` is the one that loses next to nothing.
DEFAULT_FORMATS = {"fast": "Q4_0-KV8", "near-lossless": "Q8_0"}
#: Measurements of each of the two files, alternating.
_ROUNDS = 2
#: Context and slots of the backends that are measured.
_CONTEXT = 1024
_PARALLEL = 8


def select_weights_file(
    path: Path,
    settings: Settings,
    report: ReportProgress,
    replica: ReplicaPlan | None = None,
    store: ConvertedFiles | None = None,
) -> Path:
    """The file to load for the model at ``path`` under ``settings.weights``; ``replica`` as in ``create_llama``.

    Raises ModelError and ConfigurationError.
    """
    aim = settings.weights
    if aim == "as-is":
        return path
    log = structlog.get_logger()
    weight_format = format_for_aim(path, aim)
    if weight_format is None:
        log.info("weights as they are", aim=aim, why="tailrace tune found no better format for this machine")
        return path
    if has_format(path, weight_format):
        log.info("weights as they are", aim=aim, why=f"the file is {weight_format.file_type} already")
        return path
    converted, comparison = convert_weights(path, weight_format, settings, report, replica, store)
    facts = _log_fields(converted, comparison)
    why = comparison.rejection_reason(aim)
    if why is not None:
        log.warning("weights as they are", aim=aim, tried=weight_format.name, why=why, **facts)
        return path
    log.info("weights converted", aim=aim, format=weight_format.name, **facts, path=str(converted.path))
    return converted.path


def format_for_aim(path: Path, aim: str) -> ConversionFormat | None:
    """The format for ``aim`` (near-lossless or fast) and this model: the tuned one, else the default.

    None when tuning found no format that is better than the file as it is. Raises ModelError and ConfigurationError.
    """
    tuned = TuningStore().find(fingerprint(path), read_topology(), version("llama-cpp-python"))
    name = DEFAULT_FORMATS[aim] if tuned is None else tuned.weights.get(aim, DEFAULT_FORMATS[aim])
    return None if name == "as-is" else CONVERSION_FORMATS[name]


def has_format(path: Path, weight_format: ConversionFormat) -> bool:
    """Whether most of the file's weights are in this format already."""
    return read_facts(path).quantisation == weight_format.file_type


def convert_weights(
    path: Path,
    weight_format: ConversionFormat,
    settings: Settings,
    report: ReportProgress,
    replica: ReplicaPlan | None = None,
    store: ConvertedFiles | None = None,
) -> tuple[ConvertedFile, FormatComparison]:
    """The model at ``path`` in this format, and its comparison with the original: from the store, or made now.

    Raises ModelError when it can't be converted, ConfigurationError when the settings can't work.
    """
    store = ConvertedFiles() if store is None else store
    replica = replica or make_plan(read_topology(), settings).replicas[0]
    if (found := store.find(path, weight_format)) is not None and found.comparison is not None:
        return found, found.comparison

    def waiting() -> None:
        report("waiting for another process that converts this", 0.0)

    with store.reserve_target(path, weight_format, waiting) as target:
        # Another process may have made the file meanwhile, or was stopped before it had measured.
        converted = store.find(path, weight_format)
        if converted is None:
            converted = store.add(path, _write(path, target, weight_format, replica, report))
        comparison = converted.comparison or compare_files(path, converted.path, settings, report, replica)
        return store.write_record(path, msgspec.structs.replace(converted, comparison=comparison)), comparison


def _write(
    path: Path, target: Path, weight_format: ConversionFormat, replica: ReplicaPlan, report: ReportProgress
) -> ConvertedFile:
    # The import is here and below because each command and the supervisor load this module, and few need llama.cpp.
    from tailrace.engine.backends.llama.quantize import quantize

    def progress(part: float) -> None:
        report(f"converting to {weight_format.name}", part)

    begun = time.monotonic()
    quantize(path, target, weight_format, threads=replica.prefill.threads, progress=progress)
    seconds = time.monotonic() - begun
    return ConvertedFile(
        path=target,
        weight_format=weight_format,
        bytes=target.stat().st_size,
        bytes_before=total_bytes(path),
        seconds=round(seconds, 2),
    )


def compare_files(
    original: Path, other: Path, settings: Settings, report: ReportProgress, replica: ReplicaPlan
) -> FormatComparison:
    """Measure quality and speed of two files of one model. Only one of them is in memory at a time.

    Raises ModelError and ConfigurationError.
    """
    from tailrace.engine.backends.create_llama import create_llama

    load_settings = msgspec.structs.replace(
        settings, ctx=_CONTEXT, parallel=_PARALLEL, kv_tokens=0, prefill_chunk=WINDOW
    )
    predictions: list[Predictions] = []
    speeds: tuple[list[Speed], list[Speed]] = ([], [])
    for number in range(2 * _ROUNDS):
        report("measuring quality and speed", number / (2 * _ROUNDS))
        backend = create_llama((original, other)[number % 2], load_settings, replica)
        try:
            if number < 2:
                predictions.append(predict(backend))
            speeds[number % 2].append(measure(backend))
        finally:
            backend.close()
    return FormatComparison(quality=compare(*predictions), before=_median(speeds[0]), after=_median(speeds[1]))


def _log_fields(converted: ConvertedFile, comparison: FormatComparison) -> dict[str, str]:
    """The measured figures as fields of a log line."""
    quality = comparison.quality
    prefill, decode, batched = comparison.after.ratios_to(comparison.before)
    return {
        "divergence": f"{quality.divergence:.4f} nats (p99 {quality.divergence_p99:.3f})",
        "same_top": f"{100 * quality.same_top:.1f} %",
        "perplexity": f"{quality.perplexity_before:.2f} → {quality.perplexity:.2f}",
        "size": f"{converted.bytes_before / 1e6:.0f} → {converted.bytes / 1e6:.0f} MB",
        "speed": f"prefill × {prefill:.2f}, decode × {decode:.2f}, {comparison.after.streams} streams × {batched:.2f}",
    }


def _median(speeds: list[Speed]) -> Speed:
    return Speed(
        prefill=statistics.median(each.prefill for each in speeds),
        decode=statistics.median(each.decode for each in speeds),
        decode_batched=statistics.median(each.decode_batched for each in speeds),
        streams=speeds[0].streams,
    )
