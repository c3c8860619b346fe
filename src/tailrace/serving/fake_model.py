"""The properties of the fake backend's model that tests script, in environment variables that every process inherits.

``TAILRACE_FAKE_WEIGHTS_MB``, ``TAILRACE_FAKE_LOAD_SECONDS`` and ``TAILRACE_FAKE_LOAD_FAILS`` have one value for all
models, or one for each of some: ``coder=200,writer=50``. A model is named as in its settings (``Settings.model``).
"""

from __future__ import annotations

import os


def weights_mb(model: str) -> int:
    """MB that it allocates when it is loaded."""
    return int(_value("WEIGHTS_MB", model) or 0)


def load_seconds(model: str) -> float:
    """How long its load takes."""
    return float(_value("LOAD_SECONDS", model) or 0.0)


def load_failure(model: str) -> str:
    """Why its load fails; empty: it doesn't."""
    return _value("LOAD_FAILS", model)


def step_seconds() -> float:
    """How long a step takes, of every model."""
    return float(os.environ.get("TAILRACE_FAKE_STEP_SECONDS", "0"))


def _value(variable: str, model: str) -> str:
    text = os.environ.get(f"TAILRACE_FAKE_{variable}", "")
    if "=" not in text:
        return text
    pairs = (pair.partition("=") for pair in text.split(","))
    return next((value for name, _, value in pairs if name == model), "")
