"""Connects to a worker that this process could use: one of its own version, which isn't connected already."""

from __future__ import annotations

from collections.abc import Iterable

from tailrace.engine.devices.worker_errors import WorkerVersionError
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.errors import ConfigurationError


def open_worker(endpoint: str, version: str, others: Iterable[WorkerLink] = ()) -> WorkerLink:
    """The link to the worker at ``endpoint``, which isn't claimed yet.

    ``version``: of this process's llama-cpp-python. ``others``: links to the other workers that ``devices`` names.
    Raises WorkerUnavailableError, and ConfigurationError for a worker that can't be used.
    """
    try:
        link = WorkerLink(endpoint)
    except WorkerVersionError as error:
        raise ConfigurationError(str(error)) from error
    try:
        _refuse_version(link, version)
        _refuse_known(link, others)
    except ConfigurationError:
        link.close()
        raise
    return link


def _refuse_version(link: WorkerLink, version: str) -> None:
    if link.status.llama_cpp != version:
        raise ConfigurationError(
            f"the worker at {link.endpoint} has llama-cpp-python {link.status.llama_cpp} and this machine "
            f"{version}: both must have the same; install the same tailrace on both"
        )


def _refuse_known(link: WorkerLink, others: Iterable[WorkerLink]) -> None:
    """Raise ConfigurationError where this is the worker of another link: llama.cpp would wait for itself."""
    for other in others:
        if link.status.identity and link.status.identity == other.status.identity:
            raise ConfigurationError(
                f"devices names one worker twice: {other.endpoint} and {link.endpoint} are the same. Leave one out"
            )
