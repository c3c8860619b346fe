"""Where Ray is: it places replicas and ingresses on nodes, watches them, and starts them again.

``application`` makes the Serve application of a cluster's file. ``replica`` and ``ingress`` are the actors, each with
one process as its child; ``directory`` is where they find each other; ``scaling_policy`` has Serve ask
``autoscaling``. ``local_ray`` starts Ray on this machine or joins a cluster. No request passes through Ray.

Only this package imports Ray, and nothing but a command of ``tailrace cluster`` and Ray itself imports this package.
"""

from __future__ import annotations

import os

# Ray reads these when it is imported: it reports no use to its makers, and writes no hints.
for _name, _value in (
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
    ("RAY_SERVE_LOG_TO_STDERR", "0"),
):
    os.environ.setdefault(_name, _value)
