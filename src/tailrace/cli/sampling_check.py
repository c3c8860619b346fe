"""The sampling parameters that the settings name, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrace.errors import ConfigurationError


def check_sampling(parameters: Mapping[str, Any], owner: str = "sampling") -> None:
    """Raise ConfigurationError where a parameter isn't one of Ollama's options, or has a value that it can't have.
    ``owner``: what the error names in front, the setting or a model's table.
    """
    if not parameters:
        return
    # Only here: most starts have no such parameters, and need none of the dialects in this process.
    from tailrace.errors import InvalidRequest
    from tailrace.server.dialects.ollama.derived_model_request import checked_parameters

    try:
        checked_parameters(dict(parameters))
    except InvalidRequest as error:
        raise ConfigurationError(f"{owner}: {str(error).replace('parameters', 'sampling')}") from error
