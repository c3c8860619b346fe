"""Ollama's ``keep_alive``: how long a model stays loaded after a request, as Go writes durations."""

from __future__ import annotations

import math
import re

from tailrace.errors import InvalidRequest

#: Characters of the longest duration that is read.
_MAX_LENGTH = 100
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_PART = re.compile(_NUMBER + "(ns|us|µs|μs|ms|s|m|h)")
_DURATIONS = re.compile(rf"[-+]?({_PART.pattern})+")
_SECONDS = re.compile(rf"[-+]?{_NUMBER}")


def seconds_of(keep_alive: float | str | None) -> float | None:
    """The seconds; infinite for a negative value, which means for ever; None where the request has none.

    Raises InvalidRequest for text that is no duration.
    """
    if keep_alive is None:
        return None
    if isinstance(keep_alive, str):
        keep_alive = _parsed(keep_alive)
    return math.inf if keep_alive < 0 else float(keep_alive)


def _parsed(text: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    if len(text) <= _MAX_LENGTH and _SECONDS.fullmatch(text):
        return sign * abs(float(text))
    if len(text) <= _MAX_LENGTH and _DURATIONS.fullmatch(text):
        return sign * sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    raise InvalidRequest(
        "Invalid value for 'keep_alive': not a duration such as '5m', '1h30m' or a number of seconds.",
        param="keep_alive",
    )
