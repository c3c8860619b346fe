"""Serve's autoscaling, decided by ``autoscaling``: Serve's controller calls it ten times a second for each model.

Serve's own policy counts requests through Ray, of which there are none here. The work for a model is in the directory,
which is asked without waiting for its answer. As long as that isn't known, the number of replicas stays.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import ray
import ray.exceptions
from ray.serve.config import AutoscalingContext

from tailrace.cluster.autoscaling import Demand, Scaler
from tailrace.cluster.config import Replicas
from tailrace.cluster.deployments.directory import find_directory

#: Seconds between two questions.
_ASK_SECONDS = 0.5
#: Seconds after which a demand isn't true any more.
_OLD_SECONDS = 3.0


class ScalingPolicy:
    """See the module. ``replicas``: the model's ``Replicas`` as JSON has them."""

    def __init__(self, model: str, replicas: dict[str, Any]) -> None:
        self._model = model
        self._scaler = Scaler(msgspec.convert(replicas, Replicas))
        self._question: Any = None
        self._asked_at = 0.0
        self._demand: Demand | None = None
        self._known_at = 0.0

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas that there should be, and no state: this object has it."""
        now = time.monotonic()
        self._ask(now)
        target: int = context.target_num_replicas
        if self._demand is None or now - self._known_at > _OLD_SECONDS:
            return target, {}
        return self._scaler.decide(target, self._demand, now), {}

    def _ask(self, now: float) -> None:
        if self._question is not None:
            if ray.wait([self._question], timeout=0)[0]:
                question, self._question = self._question, None
                try:
                    self._demand, self._known_at = ray.get(question), now
                except ray.exceptions.RayError:
                    pass  # The directory has died; there will be another one.
            elif now - self._asked_at > _OLD_SECONDS:
                self._question = None
        elif now - self._asked_at >= _ASK_SECONDS:
            self._asked_at = now
            directory = find_directory()
            self._question = None if directory is None else directory.demand.remote(self._model)
