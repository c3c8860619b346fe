"""Environment variables by which Ray reports no use to its makers and writes no hints. Import it before Ray."""

from __future__ import annotations

import os

for _name, _value in (
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
    ("RAY_SERVE_LOG_TO_STDERR", "0"),
):
    os.environ.setdefault(_name, _value)
