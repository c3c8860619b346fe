"""Measures a model's settings on the live machine, one after the other, each with those before it as chosen.

It runs probes and conversions in rounds and says how far it is; which value wins is ``machine.tune``'s to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from math import sqrt
from pathlib import Path
from statistics import median

import msgspec

from tailrace.engine.weights.choice import USUAL, Tell, convert, has_format
from tailrace.errors import ModelError
from tailrace.machine.free_memory import available_memory
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import (
    TuningRecord,
    TuningRow,
    choose_value,
    machine_name,
    thread_counts,
    usable_cpus,
)
from tailrace.models.convert import Conversions
from tailrace.models.gguf import read_facts
from tailrace.models.measures import Measures, Speed, preferred
from tailrace.models.recipes import AIMS, RECIPES, Recipe
from tailrace.models.shards import total_bytes
from tailrace.settings import Settings
from tailrace.tuning.probe import Probe

#: What can be measured, in this order.
STAGES = ("threads", "poll", "prefill_chunk", "kv_layout", "weights")

#: Poll levels: none, the two that plans choose_value, and one between.
_POLLS = (0, 1, 10, 50)
_CHUNKS = (128, 256, 512, 1024)
_FORMATS = ("Q4_0-KV8", "IQ4_NL-KV8", "Q4_K_M", "Q8_0", "BF16")
#: Weights that IQ4_NL's search converts in a second on one core, and seconds that it may take.
_SEARCHED, _SEARCH_SECONDS = 7.5e6, 240.0
#: Weights up to which sixteen bits each are worth trying: larger models wait for memory, not for arithmetic.
_SMALL = 1e9
#: A conversion's steps of progress: it is measured in turns with the original, which takes as long as so many probes.
_CONVERSION_STEPS = 8
#: Memory that a loaded file takes, as a part of its size.
_LOADED = 1.3


class Tuner:
    """One model's tuning. ``run`` does it."""

    def __init__(self, path: Path, settings: Settings, *, stages: tuple[str, ...], quick: bool, tell: Tell) -> None:
        """``path`` is the model's own file; ``settings`` are those that stay where a stage doesn't change them."""
        self._path = path
        self._loads = msgspec.structs.replace(settings, ctx=1024, parallel=8, kv_tokens=0)
        self._stages = stages
        self._quick = quick
        self._rounds = 2 if quick else 3
        self._tell = tell
        self._topology = read_topology()
        self._rows: list[TuningRow] = []
        self._chosen: dict[str, int] = {}
        self._weights: dict[str, str] = {}
        self._values = self._plan_values()
        self._formats = self._plan_formats() if "weights" in stages else []
        self._steps = sum(len(values) for values in self._values.values()) * self._rounds
        self._steps += (2 * self._rounds if "kv_layout" in stages else 0) + len(self._formats) * _CONVERSION_STEPS
        self._done = 0

    def run(self, file: Path) -> TuningRecord:
        """Measure everything, the settings with the weights in ``file``. Raises ModelError and ConfigurationError."""
        replica = make_plan(self._topology, self._loads).replicas[0]
        if "threads" in self._values:
            speeds = self._measure(file, "threads", ("threads", "threads_prefill"))
            self._choose("threads", str(replica.decode.threads), speeds, _writing)
            self._choose("threads_prefill", str(replica.prefill.threads), speeds, lambda speed: speed.prefill)
        if "poll" in self._values:
            self._choose("poll", str(replica.decode.poll), self._measure(file, "poll", ("poll",)), _writing)
        if "prefill_chunk" in self._values:
            speeds = self._measure(file, "prefill_chunk", ("prefill_chunk",))
            self._choose("prefill_chunk", str(self._loads.prefill_chunk), speeds, lambda speed: speed.prefill)
        if "kv_layout" in self._stages:
            self._compare_layouts(file)
        if self._formats:
            self._compare_formats()
        return TuningRecord(
            model=self._path.name,
            machine=machine_name(self._topology),
            usable=usable_cpus(self._topology),
            settings=self._chosen,
            weights=self._weights,
            rows=tuple(self._rows),
        )

    def _plan_values(self) -> dict[str, list[int]]:
        cores = self._topology.usable_cores
        replica = make_plan(self._topology, self._loads).replicas[0]
        counts = thread_counts(len(cores), sum(len(core.cpus) for core in cores), quick=self._quick)
        values = {
            "threads": sorted({*counts, replica.decode.threads, replica.prefill.threads}),
            "poll": sorted({1, 50, replica.decode.poll} if self._quick else {*_POLLS, replica.decode.poll}),
            "prefill_chunk": sorted(
                {256, self._loads.prefill_chunk} if self._quick else {*_CHUNKS, self._loads.prefill_chunk}
            ),
        }
        return {stage: found for stage, found in values.items() if stage in self._stages}

    def _plan_formats(self) -> list[Recipe]:
        parameters = read_facts(self._path).parameters
        threads = make_plan(self._topology, self._loads).replicas[0].prefill.threads
        names = list(_FORMATS[:1] if self._quick else _FORMATS)
        if parameters / (_SEARCHED * threads) > _SEARCH_SECONDS:
            names = [name for name in names if not name.startswith("IQ")]
        if parameters > _SMALL:
            names = [name for name in names if name != "BF16"]
        return [RECIPES[name] for name in names if not has_format(self._path, RECIPES[name])]

    def _measure(self, file: Path, stage: str, fields: tuple[str, ...]) -> list[dict[str, Speed]]:
        """Every value of the stage once in every round, in turns; the settings' ``fields`` take the value."""
        settings = {
            str(value): msgspec.structs.replace(self._loads, **dict.fromkeys(fields, value))
            for value in self._values[stage]
        }
        size = total_bytes(file) * _LOADED
        # Several at once share the machine only while one of them works: the others' threads sleep.
        together = len(settings) * size < available_memory() / 2
        rounds: list[dict[str, Speed]] = []
        with contextlib.ExitStack() as stack:
            probes = (
                {value: stack.enter_context(Probe(file, each)) for value, each in settings.items()} if together else {}
            )
            for number in range(self._rounds):
                # The order turns, so that no value always follows the same one's heat.
                order = list(settings)[number % len(settings) :] + list(settings)[: number % len(settings)]
                speeds: dict[str, Speed] = {}
                for value in order:
                    self._step(f"{stage} {value}")
                    if value in probes:
                        speeds[value] = probes[value].measure()
                    else:
                        with Probe(file, settings[value]) as probe:
                            speeds[value] = probe.measure()
                rounds.append({value: speeds[value] for value in settings})
        return rounds

    def _choose(
        self, setting: str, usual: str, rounds: list[dict[str, Speed]], score: Callable[[Speed], float]
    ) -> None:
        scores = [{value: score(speed) for value, speed in speeds.items()} for speeds in rounds]
        value, ratios, why = choose_value(setting, usual, scores)
        self._add(setting, usual, rounds, ratios, value, why)
        self._chosen[setting] = int(value)
        self._loads = msgspec.structs.replace(self._loads, **{setting: int(value)})

    def _compare_layouts(self, file: Path) -> None:
        rounds: list[dict[str, Speed]] = []
        with Probe(file, self._loads) as probe:
            for _ in range(self._rounds):
                self._step("kv_layout", 2)
                rounds.append(probe.measure_layouts())
        used = next(iter(rounds[0]))
        ratios = {
            value: median(each[value].decode_many / each[used].decode_many for each in rounds) for value in rounds[0]
        }
        why = {
            "streams": "used while it fits; else the pool, by itself",
            "pool": "the kernels' attention reads what a token sees and no more",
        }
        self._add("kv_layout", used, rounds, ratios, used, why[used])

    def _compare_formats(self) -> None:
        kept = Conversions()
        there = {recipe.name for recipe in self._formats if kept.find(self._path, recipe) is not None}
        measured: dict[str, Measures] = {}
        for recipe in self._formats:
            self._step(f"weights {recipe.name}", _CONVERSION_STEPS)
            try:
                _, measured[recipe.name] = convert(self._path, recipe, self._loads, lambda _, __: None)
            except ModelError as error:
                self._rows.append(
                    TuningRow(setting="weights", value=recipe.name, figures=(), ratio=0.0, usual=False, why=str(error))
                )
        for aim in AIMS:
            # Without the usual format for it the others say nothing about this aim.
            if USUAL[aim] in measured:
                self._weights[aim] = preferred(aim, measured) or "as-is"
        for name, found in measured.items():
            aims = [aim for aim, value in self._weights.items() if value == name]
            lost, after = found.quality, found.after
            why = f"KL {lost.divergence:.4f}, perplexity {lost.perplexity_before:.1f} → {lost.perplexity:.1f}"
            self._rows.append(
                TuningRow(
                    setting="weights",
                    value=name,
                    figures=(after.prefill, after.decode, after.decode_many),
                    ratio=after.gain(found.before),
                    usual=False,
                    chosen=bool(aims),
                    why=f"{' and '.join(aims)}: {why}" if aims else why,
                )
            )
            if not aims and name not in there:
                kept.remove(self._path, RECIPES[name])

    def _add(
        self,
        setting: str,
        usual: str,
        rounds: list[dict[str, Speed]],
        ratios: Mapping[str, float],
        chosen: str,
        why: str,
    ) -> None:
        for value, ratio in ratios.items():
            speeds = [each[value] for each in rounds]
            self._rows.append(
                TuningRow(
                    setting=setting,
                    value=value,
                    figures=(
                        median(speed.prefill for speed in speeds),
                        median(speed.decode for speed in speeds),
                        median(speed.decode_many for speed in speeds),
                    ),
                    ratio=ratio,
                    usual=value == usual,
                    chosen=value == chosen,
                    why=why if value == chosen else "",
                )
            )

    def _step(self, what: str, steps: int = 1) -> None:
        self._tell(what, self._done / self._steps)
        self._done += steps


def _writing(speed: Speed) -> float:
    """One figure for writing: the geometric mean of one stream and several."""
    return sqrt(speed.decode * speed.decode_many)
