"""From two samples to findings. Pure."""

from __future__ import annotations

from tailrace.diagnosis.catalogue import CATALOGUE, SEVERITIES, Finding
from tailrace.diagnosis.engine_rules import engine_findings
from tailrace.diagnosis.memory_rules import memory_findings
from tailrace.diagnosis.processor_rules import processor_findings
from tailrace.diagnosis.request_rules import request_findings
from tailrace.diagnosis.sample import Interval, Sample

_ORDER = {code: number for number, code in enumerate(CATALOGUE)}


def diagnose(before: Sample, after: Sample) -> list[Finding]:
    """What limits the server between the two samples, the most important first; there is always a finding."""
    interval = Interval(before, after)
    found = [
        *engine_findings(interval),
        *processor_findings(interval),
        *memory_findings(interval),
        *request_findings(interval),
    ]
    return sorted(found, key=lambda each: (SEVERITIES.index(each.severity), _ORDER[each.code]))
