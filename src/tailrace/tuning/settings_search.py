"""``tailrace tune``: measures one setting after the other on this machine, each with the earlier choices applied.

It runs probes and conversions in rounds and reports its progress. The rule that chooses a value is
``machine.tuning_record.choose_value``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from math import sqrt
from pathlib import Path
from statistics import median

import msgspec

from tailrace.engine.weights.file_choice import DEFAULT_FORMATS, ReportProgress, convert_weights, has_format
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
from tailrace.models.conversion_formats import AIMS, CONVERSION_FORMATS, ConversionFormat
from tailrace.models.converted_files import ConvertedFiles
from tailrace.models.format_comparison import FormatComparison, Speed, best_format
from tailrace.models.model_header import read_facts
from tailrace.models.shards import total_bytes
from tailrace.settings import Settings
from tailrace.tuning.probe import Probe, median_figures

#: The stages, in the order in which they run.
STAGES = ("threads", "poll", "prefill_chunk", "kv_layout", "weights")

#: Poll levels: no polling, the two levels that the planner uses, and one between.
_POLL_LEVELS = (0, 1, 10, 50)
_CHUNK_SIZES = (128, 256, 512, 1024)
_FORMATS = ("Q4_0-KV8", "IQ4_NL-KV8", "Q4_K_M", "Q8_0", "BF16")
#: IQ4_NL searches for its scales: weights that one core converts in a second, and the most seconds it may take.
_SEARCH_WEIGHTS_PER_SECOND, _MAX_SEARCH_SECONDS = 7.5e6, 240.0
#: Parameters up to which 16-bit weights are worth a try: larger models wait for memory, not for arithmetic.
_MAX_BF16_PARAMETERS = 1e9
#: Progress steps of a conversion: it is measured alternating with the original, which takes as long as so many probes.
_CONVERSION_STEPS = 8
#: Memory of a loaded file, as a multiple of its size.
_LOADED_SIZE_FACTOR = 1.3


class SettingsSearch:
    """The tuning of one model. ``run`` does it."""

    def __init__(
        self, path: Path, settings: Settings, *, stages: tuple[str, ...], quick: bool, report: ReportProgress
    ) -> None:
        """``path`` is the model's original file. ``settings`` hold for everything that no stage changes."""
        self._path = path
        self._settings = msgspec.structs.replace(settings, ctx=1024, parallel=8, kv_tokens=0)
        self._stages = stages
        self._quick = quick
        self._rounds = 2 if quick else 3
        self._report = report
        self._topology = read_topology()
        self._rows: list[TuningRow] = []
        self._chosen: dict[str, int] = {}
        self._weights: dict[str, str] = {}
        self._values = self._plan_values()
        self._formats = self._plan_formats() if "weights" in stages else []
        self._steps = sum(len(values) for values in self._values.values()) * self._rounds
        self._steps += (2 * self._rounds if "kv_layout" in stages else 0) + len(self._formats) * _CONVERSION_STEPS
        self._steps_done = 0

    def run(self, file: Path) -> TuningRecord:
        """Run all stages; those before the weights measure ``file``. Raises ModelError and ConfigurationError."""
        replica = make_plan(self._topology, self._settings).replicas[0]
        if "threads" in self._values:
            speeds = self._measure(file, "threads", ("threads", "threads_prefill"))
            self._choose("threads", str(replica.decode.threads), speeds, _decode_score)
            self._choose("threads_prefill", str(replica.prefill.threads), speeds, lambda speed: speed.prefill)
        if "poll" in self._values:
            self._choose("poll", str(replica.decode.poll), self._measure(file, "poll", ("poll",)), _decode_score)
        if "prefill_chunk" in self._values:
            speeds = self._measure(file, "prefill_chunk", ("prefill_chunk",))
            self._choose("prefill_chunk", str(self._settings.prefill_chunk), speeds, lambda speed: speed.prefill)
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
        """The values to measure, by stage."""
        cores = self._topology.usable_cores
        replica = make_plan(self._topology, self._settings).replicas[0]
        counts = thread_counts(len(cores), sum(len(core.cpus) for core in cores), quick=self._quick)
        polls, chunks = ((1, 50), (256,)) if self._quick else (_POLL_LEVELS, _CHUNK_SIZES)
        values = {
            "threads": sorted({*counts, replica.decode.threads, replica.prefill.threads}),
            "poll": sorted({*polls, replica.decode.poll}),
            "prefill_chunk": sorted({*chunks, self._settings.prefill_chunk}),
        }
        return {stage: found for stage, found in values.items() if stage in self._stages}

    def _plan_formats(self) -> list[ConversionFormat]:
        parameters = read_facts(self._path).parameters
        threads = make_plan(self._topology, self._settings).replicas[0].prefill.threads
        names = list(_FORMATS[:1] if self._quick else _FORMATS)
        if parameters / (_SEARCH_WEIGHTS_PER_SECOND * threads) > _MAX_SEARCH_SECONDS:
            names = [name for name in names if not name.startswith("IQ")]
        if parameters > _MAX_BF16_PARAMETERS:
            names = [name for name in names if name != "BF16"]
        return [CONVERSION_FORMATS[name] for name in names if not has_format(self._path, CONVERSION_FORMATS[name])]

    def _measure(self, file: Path, stage: str, fields: tuple[str, ...]) -> list[dict[str, Speed]]:
        """Measure each value of the stage once a round, alternating; the settings' ``fields`` take the value."""
        settings = {
            str(value): msgspec.structs.replace(self._settings, **dict.fromkeys(fields, value))
            for value in self._values[stage]
        }
        # All probes may be loaded at once, because only one works at a time and the others' threads sleep.
        all_loaded = len(settings) * total_bytes(file) * _LOADED_SIZE_FACTOR < available_memory() / 2
        rounds: list[dict[str, Speed]] = []
        with contextlib.ExitStack() as stack:
            probes = (
                {value: stack.enter_context(Probe(file, each)) for value, each in settings.items()}
                if all_loaded
                else {}
            )
            for number in range(self._rounds):
                # The order rotates, so that no value always runs on a CPU that the same other value has heated up.
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
        self, setting: str, default: str, rounds: list[dict[str, Speed]], score: Callable[[Speed], float]
    ) -> None:
        """Choose the setting's value by its scores, and apply it to the stages that follow."""
        scores = [{value: score(speed) for value, speed in speeds.items()} for speeds in rounds]
        value, ratios, why = choose_value(setting, default, scores)
        self._add_rows(setting, default, rounds, ratios, value, why)
        self._chosen[setting] = int(value)
        self._settings = msgspec.structs.replace(self._settings, **{setting: int(value)})

    def _compare_layouts(self, file: Path) -> None:
        """Add both KV layouts to the table. The engine chooses the layout by itself, so nothing is set."""
        rounds: list[dict[str, Speed]] = []
        with Probe(file, self._settings) as probe:
            for _ in range(self._rounds):
                self._step("kv_layout", 2)
                rounds.append(probe.measure_layouts())
        used = next(iter(rounds[0]))
        ratios = {
            value: median(each[value].decode_batched / each[used].decode_batched for each in rounds)
            for value in rounds[0]
        }
        why = {
            "partitioned": "used while it fits; the engine changes to shared by itself",
            "shared": "the kernels' attention reads only the cells that a token sees",
        }
        self._add_rows("kv_layout", used, rounds, ratios, used, why[used])

    def _compare_formats(self) -> None:
        """Convert the model to each format, choose one for each aim, and delete the files that nothing uses."""
        store = ConvertedFiles()
        already_there = {each.name for each in self._formats if store.find(self._path, each) is not None}
        measured = self._measure_formats()
        for aim in AIMS:
            # Without the default format, the others say nothing about this aim.
            if DEFAULT_FORMATS[aim] in measured:
                self._weights[aim] = best_format(aim, measured) or "as-is"
        for name, comparison in measured.items():
            aims = [aim for aim, value in self._weights.items() if value == name]
            self._rows.append(_format_row(name, comparison, aims))
            if not aims and name not in already_there:
                store.remove(self._path, CONVERSION_FORMATS[name])

    def _measure_formats(self) -> dict[str, FormatComparison]:
        """Comparisons with the original by format; a format that can't be made becomes a row with the reason."""
        measured: dict[str, FormatComparison] = {}
        for each in self._formats:
            self._step(f"weights {each.name}", _CONVERSION_STEPS)
            try:
                _, measured[each.name] = convert_weights(self._path, each, self._settings, lambda _, __: None)
            except ModelError as error:
                self._rows.append(
                    TuningRow(setting="weights", value=each.name, figures=(), ratio=0.0, usual=False, why=str(error))
                )
        return measured

    def _add_rows(
        self,
        setting: str,
        default: str,
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
                    figures=median_figures(speeds),
                    ratio=ratio,
                    usual=value == default,
                    chosen=value == chosen,
                    why=why if value == chosen else "",
                )
            )

    def _step(self, activity: str, steps: int = 1) -> None:
        self._report(activity, self._steps_done / self._steps)
        self._steps_done += steps


def _format_row(name: str, comparison: FormatComparison, aims: list[str]) -> TuningRow:
    """The table's row of a format, which was chosen for ``aims``."""
    quality, after = comparison.quality, comparison.after
    why = f"KL {quality.divergence:.4f}, perplexity {quality.perplexity_before:.1f} → {quality.perplexity:.1f}"
    return TuningRow(
        setting="weights",
        value=name,
        figures=(after.prefill, after.decode, after.decode_batched),
        ratio=after.mean_ratio_to(comparison.before),
        usual=False,
        chosen=bool(aims),
        why=f"{' and '.join(aims)}: {why}" if aims else why,
    )


def _decode_score(speed: Speed) -> float:
    """The score of decoding: the geometric mean of one sequence and several."""
    return sqrt(speed.decode * speed.decode_batched)
