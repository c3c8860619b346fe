"""The errors of a worker that can't be used."""

from __future__ import annotations


class WorkerUnavailableError(Exception):
    """A worker that can't be used now; the message says why."""


class WorkerVersionError(Exception):
    """A worker of another version of tailrace; the message says which is older."""
