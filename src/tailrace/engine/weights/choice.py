"""Which file the weights are loaded from: the model's own, or one in a format that is faster on this machine.

Converts and measures once; what was found is kept beside the converted file (``models.convert``). It never changes the
model unasked, and whatever it decides it says, with its reason.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog

from tailrace.engine.weights.quality import WINDOW, Reading, compare, read
from tailrace.engine.weights.speed import measure
from tailrace.machine.plan import ReplicaPlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import TuningStore
from tailrace.models.convert import Conversion, Conversions
from tailrace.models.gguf import read_facts
from tailrace.models.identity import fingerprint
from tailrace.models.measures import Measures, Speed
from tailrace.models.recipes import RECIPES, Recipe
from tailrace.models.shards import total_bytes
from tailrace.settings import Settings

#: Told what is being done, and how far it is, 0 to 1.
Tell = Callable[[str, float], None]

#: What an aim means where nothing was tuned: the format whose kernels are the fastest on every CPU that llama.cpp has
#: repacked ones for (x86 from AVX2 on, ARM with dot products), and the one that loses next to nothing.
USUAL = {"fast": "Q4_0-KV8", "near-lossless": "Q8_0"}
#: Measurements of either file, in turns.
_ROUNDS = 2
#: Tokens and slots that measuring needs.
_CONTEXT = 1024
_STREAMS = 8


def chosen_file(
    path: Path,
    settings: Settings,
    tell: Tell,
    replica: ReplicaPlan | None = None,
    conversions: Conversions | None = None,
) -> Path:
    """The file to load for the model at ``path`` as ``settings.weights`` says; ``replica`` as in ``open_llama``.

    Raises ModelError and ConfigurationError.
    """
    aim = settings.weights
    if aim == "as-is":
        return path
    log = structlog.get_logger()
    recipe = recipe_for(path, aim)
    if recipe is None:
        log.info("weights as they are", asked_for=aim, why="tailrace tune found no better format for this machine")
        return path
    if has_format(path, recipe):
        log.info("weights as they are", asked_for=aim, why=f"the file is {recipe.file_type} already")
        return path
    made, measures = convert(path, recipe, settings, tell, replica, conversions)
    facts = _described(made, measures)
    why = measures.objection(aim)
    if why is not None:
        log.warning("weights as they are", asked_for=aim, tried=recipe.name, why=why, **facts)
        return path
    log.info("weights converted", asked_for=aim, format=recipe.name, **facts, path=str(made.path))
    return made.path


def recipe_for(path: Path, aim: str) -> Recipe | None:
    """The format that ``aim`` (near-lossless or fast) means for this model here: what was tuned, else what is usual.

    None when tuning found none better than the file as it is. Raises ModelError and ConfigurationError.
    """
    tuned = TuningStore().find(fingerprint(path), read_topology(), version("llama-cpp-python"))
    name = USUAL[aim] if tuned is None else tuned.weights.get(aim, USUAL[aim])
    return None if name == "as-is" else RECIPES[name]


def has_format(path: Path, recipe: Recipe) -> bool:
    """Whether most of the file's weights have the recipe's format as it is."""
    return read_facts(path).quantisation == recipe.file_type


def convert(
    path: Path,
    recipe: Recipe,
    settings: Settings,
    tell: Tell,
    replica: ReplicaPlan | None = None,
    conversions: Conversions | None = None,
) -> tuple[Conversion, Measures]:
    """The model at ``path`` in the recipe's format, and what was measured: made now, or found as it was made before.

    Raises ModelError when it can't be converted, ConfigurationError when the settings can't work.
    """
    kept = Conversions() if conversions is None else conversions
    replica = replica or make_plan(read_topology(), settings).replicas[0]
    if (found := kept.find(path, recipe)) is not None and found.measures is not None:
        return found, found.measures
    with kept.making(path, recipe, lambda: tell("waiting for another process that converts this", 0.0)) as target:
        # Another process may have made it meanwhile; or one was stopped before it had measured.
        made = kept.find(path, recipe) or kept.keep(path, _write(path, target, recipe, replica, tell))
        measures = made.measures or measured(path, made.path, settings, tell, replica)
        return kept.note(path, msgspec.structs.replace(made, measures=measures)), measures


def _write(path: Path, target: Path, recipe: Recipe, replica: ReplicaPlan, tell: Tell) -> Conversion:
    # Here and below, because every command and the supervisor load this module, and few of them need llama.cpp.
    from tailrace.engine.backends.llama.quantize import quantize

    threads = replica.prefill.threads
    begun = time.monotonic()
    quantize(path, target, recipe, threads=threads, progress=lambda part: tell(f"converting to {recipe.name}", part))
    seconds = time.monotonic() - begun
    return Conversion(
        path=target,
        recipe=recipe,
        bytes=target.stat().st_size,
        bytes_before=total_bytes(path),
        seconds=round(seconds, 2),
    )


def measured(original: Path, other: Path, settings: Settings, tell: Tell, replica: ReplicaPlan) -> Measures:
    """Quality and speed of two files of one model. One of both is in memory at a time.

    Raises ModelError and ConfigurationError.
    """
    from tailrace.engine.backends.open_llama import open_llama

    loads = msgspec.structs.replace(settings, ctx=_CONTEXT, parallel=_STREAMS, kv_tokens=0, prefill_chunk=WINDOW)
    readings: list[Reading] = []
    speeds: tuple[list[Speed], list[Speed]] = ([], [])
    for turn in range(2 * _ROUNDS):
        tell("measuring quality and speed", turn / (2 * _ROUNDS))
        backend = open_llama((original, other)[turn % 2], loads, replica)
        try:
            if turn < 2:
                readings.append(read(backend))
            speeds[turn % 2].append(measure(backend))
        finally:
            backend.close()
    return Measures(quality=compare(*readings), before=_middle(speeds[0]), after=_middle(speeds[1]))


def _described(made: Conversion, measures: Measures) -> dict[str, str]:
    """What was measured, as fields of a log line."""
    lost = measures.quality
    prefill, decode, many = measures.after.over(measures.before)
    return {
        "divergence": f"{lost.divergence:.4f} nats (p99 {lost.divergence_p99:.3f})",
        "same_top": f"{100 * lost.same_top:.1f} %",
        "perplexity": f"{lost.perplexity_before:.2f} → {lost.perplexity:.2f}",
        "size": f"{made.bytes_before / 1e6:.0f} → {made.bytes / 1e6:.0f} MB",
        "speed": f"prefill × {prefill:.2f}, decode × {decode:.2f}, {measures.after.streams} streams × {many:.2f}",
    }


def _middle(speeds: list[Speed]) -> Speed:
    return Speed(
        prefill=statistics.median(each.prefill for each in speeds),
        decode=statistics.median(each.decode for each in speeds),
        decode_many=statistics.median(each.decode_many for each in speeds),
        streams=speeds[0].streams,
    )
