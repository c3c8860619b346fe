"""The ingress's counts of the requests that it has forwarded, and of the errors that it has answered with itself.

Nothing is counted per token. The counts of a replica are dropped with it, so they don't grow with the cluster's age.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, get_args

from tailrace.errors import NoReplica, ReplicaLost
from tailrace.observe.histogram import Histogram
from tailrace.observe.metric import Labelled

#: The end of a forwarded request. ``refused``: with a status from 400 to 499; ``failed``: with another error.
Result = Literal["completed", "refused", "failed", "replica_lost", "no_replica", "client_gone"]
RESULTS: tuple[Result, ...] = get_args(Result)
#: Upper bounds of the time in which a replica names a prompt's prefix.
_PROBE_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
#: Max values of a label that comes from code all over the server. More than there are.
_MAX_CODES = 200


@dataclass
class ModelCounts:
    """One model's counts."""

    requests: Labelled = field(default_factory=dict)  #: by replica and result
    retries: int = 0  #: requests that were sent to another replica, once for each time
    wake_ups: int = 0  #: requests that found no replica of a model that sleeps
    prompt_tokens: int = 0  #: of routed prompts
    held_tokens: int = 0  #: of them, those that the chosen replica held
    probe_seconds: Histogram = field(default_factory=lambda: Histogram(_PROBE_SECONDS))


class RequestCounts:
    """See the module."""

    def __init__(self) -> None:
        self.models: defaultdict[str, ModelCounts] = defaultdict(ModelCounts)
        self.errors: Labelled = dict.fromkeys((NoReplica.code or "", ReplicaLost.code or ""), 0)  #: by code

    def ended(
        self, model: str, replica: str, *, status: int | None, error: str | None, client_gone: bool, attempts: int
    ) -> None:
        """Count a forwarded request.

        ``replica``: the last one, empty where there was none; ``error``: the code of an error of the ingress's own.
        """
        counts = self.models[model]
        key: tuple[str, ...] = (replica, _result(status, error, client_gone=client_gone))
        counts.requests[key] = counts.requests.get(key, 0) + 1
        counts.retries += max(0, attempts - 1)

    def answered_with(self, code: str) -> None:
        """Count an error that the ingress has answered with itself."""
        if code not in self.errors and len(self.errors) >= _MAX_CODES:
            code = "other"
        self.errors[code] = self.errors.get(code, 0) + 1

    def probed(self, model: str, seconds: float) -> None:
        """Count a question for a prompt's prefix."""
        self.models[model].probe_seconds.observe(seconds)

    def placed(self, model: str, prompt_tokens: int, held_tokens: int) -> None:
        """Count the tokens of a routed request's prompts."""
        counts = self.models[model]
        counts.prompt_tokens += prompt_tokens
        counts.held_tokens += held_tokens

    def woke(self, model: str) -> None:
        """Count a request that found no replica of a model that sleeps."""
        self.models[model].wake_ups += 1

    def forget(self, replica: str) -> None:
        """Drop the counts of a replica that is gone for good."""
        for counts in self.models.values():
            counts.requests = {key: count for key, count in counts.requests.items() if key[0] != replica}


def _result(status: int | None, error: str | None, *, client_gone: bool) -> Result:
    if client_gone:
        return "client_gone"
    if error is not None and error == ReplicaLost.code:
        return "replica_lost"
    if error is not None and error == NoReplica.code:
        return "no_replica"
    if error is not None or status is None or status >= 500:
        return "failed"
    return "refused" if status >= 400 else "completed"
