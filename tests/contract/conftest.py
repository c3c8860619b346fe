"""The servers that the contract's tests share: one start each for a whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import ServerProcess, fake, serving


@pytest.fixture(scope="session")
def scripted() -> Iterator[ServerProcess]:
    """The scripted backend, as fast as it goes."""
    with fake("--ctx", "300000", "--parallel", "16", "--max-body-mb", "1") as server:
        yield server


@pytest.fixture(scope="session")
def slow() -> Iterator[ServerProcess]:
    """One request at a time, 20 ms a step, a keep-alive after 0.3 s of silence."""
    with fake("--parallel", "1", "--keepalive-seconds", "0.3", "--prefill-chunk", "64", step=0.02) as server:
        yield server


@pytest.fixture(scope="session")
def inline() -> Iterator[ServerProcess]:
    """Like ``slow``, with reasoning inline and comments as keep-alives."""
    styles = ("--reasoning", "inline", "--keepalive-style", "comment")
    with fake("--parallel", "1", "--keepalive-seconds", "0.3", *styles, step=0.02) as server:
        yield server


@pytest.fixture(scope="session")
def keyed() -> Iterator[ServerProcess]:
    """A server with a key, and with one origin that browsers may call from."""
    with fake("--cors-origins", "https://app.example", api_key="s3cret") as server:
        yield server


@pytest.fixture(scope="session")
def real() -> Iterator[ServerProcess]:
    """The starter model."""
    with serving("--ctx", "2048", "--parallel", "4", "--threads", "1") as server:
        yield server
