"""Whether the limits of API keys hold for the whole cluster."""

from __future__ import annotations

from tailrace.cluster.config import ClusterConfig
from tailrace.errors import ConfigurationError
from tailrace.server.keys.keys_file import keys_path, read_keys


def check_key_limits(config: ClusterConfig) -> None:
    """Raise ConfigurationError where keys have limits that each replica would count for itself."""
    if sum(model.replicas.max_replicas for model in config.models) < 2 or config.server.get("responses_store"):
        return
    file = keys_path(config.settings.keys_file)
    for key in read_keys(file) or ():
        if key.concurrency or key.tokens_per_minute or key.tokens_per_day:
            raise ConfigurationError(
                f"the key '{key.name}' in {file} has limits, which each replica would count for itself: set "
                "responses_store to a PostgreSQL database (postgresql://...), where replicas count them together, or "
                "make keys without limits"
            )
