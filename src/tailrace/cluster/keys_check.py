"""Whether the limits of keys hold for a cluster: replicas count a key's use together only in PostgreSQL."""

from __future__ import annotations

from tailrace.errors import ConfigurationError
from tailrace.server.keys.keys_file import keys_path, read_keys
from tailrace.settings import Settings

#: Names of keys that the error lists.
_SHOWN = 3


def check_keys(settings: Settings, max_replicas: int) -> None:
    """Raise ConfigurationError for keys with limits in a file, where there may be ``max_replicas`` > 1 replicas
    altogether: each of them would allow the whole limit.
    """
    if max_replicas <= 1 or settings.keys_store is not None:
        return
    file = keys_path(settings.keys_file)
    limited = [record.name for record in read_keys(file) or () if record.has_limits]
    if limited:
        more = f" and {len(limited) - _SHOWN} more" if len(limited) > _SHOWN else ""
        raise ConfigurationError(
            f"keys in {file} have limits ({', '.join(limited[:_SHOWN])}{more}), and each of {max_replicas} replicas "
            "would allow the whole of them: set keys_store to a PostgreSQL (postgresql://...) and make the keys there "
            "with tailrace keys create, or make keys without limits"
        )
