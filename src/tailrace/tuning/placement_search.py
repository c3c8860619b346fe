"""Measures the placements next to a plan's, and finds the fastest. Each is loaded in a process of its own, one after
the other: a worker has one engine at a time.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import msgspec

from tailrace.engine.weights.file_choice import ReportProgress
from tailrace.errors import ModelError
from tailrace.machine.tuning_record import TuningRow, choose_value
from tailrace.models.format_comparison import Speed
from tailrace.settings import Settings
from tailrace.tuning.placement_neighbours import Rules, neighbours
from tailrace.tuning.probe import Probe, median_figures

_SETTING = "placement"


def search_placements(
    file: Path, settings: Settings, *, quick: bool, report: ReportProgress
) -> tuple[Rules | None, list[TuningRow]]:
    """Rules for the placement of ``file`` that is faster than the plan's, and a row for each that was tried. None: the
    plan's is the fastest.

    ``settings`` have the devices, and rules where the user has some. Raises ModelError where the plan can't be loaded.
    """
    with Probe(file, settings) as probe:
        plan = probe.placement()
    tried = {plan.label: plan, **{each.label: each for each in neighbours(plan)}}
    rounds: list[dict[str, Speed]] = []
    refused: dict[str, str] = {}
    count = 1 if quick else 2
    for number in range(count):
        speeds: dict[str, Speed] = {}
        for index, (label, parts) in enumerate(tried.items()):
            report(label, (number * len(tried) + index) / (count * len(tried)))
            if label in refused:
                continue
            try:
                speeds[label] = _measure(file, settings, None if parts == plan else parts.rules)
            except ModelError as error:
                if parts == plan:
                    raise
                refused[label] = str(error)
        rounds.append(speeds)
    measured = [label for label in tried if label not in refused]
    scores = [{label: _score(speeds[label]) for label in measured} for speeds in rounds]
    best, ratios, why = choose_value(_SETTING, plan.label, scores)
    rows = [_row(label, [speeds[label] for speeds in rounds], ratios[label]) for label in measured]
    rows = [
        msgspec.structs.replace(
            row, usual=row.value == plan.label, chosen=row.value == best, why=why if row.value == best else ""
        )
        for row in rows
    ]
    rows += [
        TuningRow(setting=_SETTING, value=label, figures=(), ratio=0.0, usual=False, why=reason)
        for label, reason in refused.items()
    ]
    return None if best == plan.label else tried[best].rules, rows


def _measure(file: Path, settings: Settings, rules: Rules | None) -> Speed:
    placed = settings if rules is None else msgspec.structs.replace(settings, placement=rules)
    with Probe(file, placed) as probe:
        return probe.measure()


def _row(label: str, speeds: list[Speed], ratio: float) -> TuningRow:
    return TuningRow(
        setting=_SETTING,
        value=label,
        figures=median_figures(speeds),
        ratio=ratio,
        usual=False,
    )


def _score(speed: Speed) -> float:
    """Decoding counts as much as eight streams and prompts together."""
    return sqrt(speed.decode * sqrt(speed.decode_batched * speed.prefill))
