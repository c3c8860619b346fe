"""Pulls in the test's own process, from servers of the test, into folders of the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from huggingface_hub import constants

from pull_servers import HubServer, OllamaRegistryServer, Storage, pull_servers
from tailrace.models.pulls.file_set import get
from tailrace.models.pulls.hub import Hub
from tailrace.models.pulls.ollama_layout import OllamaLayout, ollama_folder
from tailrace.models.pulls.ollama_registry import OllamaRegistry
from tailrace.models.pulls.progress import Progress, Pulled
from tailrace.models.pulls.remote_address import Resolve, resolve
from tailrace.models.pulls.retries import Retries
from tailrace.models.pulls.transport import Transport
from tailrace.models.reference import HubReference, OllamaReference, parse_reference

#: Variables that decide where a pull goes.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass
class LocalPulls:
    """The servers, the folders, and what the pulls have reported. ``pauses``: they are recorded, and take no time."""

    hub: HubServer
    registry: OllamaRegistryServer
    storage: Storage
    cache: Path  #: the hub's
    ollama: Path
    pauses: list[float] = field(default_factory=list)
    seen: list[Progress] = field(default_factory=list)
    resolve: Resolve = resolve
    silence_seconds: float = 5.0

    def pull(self, text: str, *, memory: int | None = None) -> Pulled:
        """Pull by the reference ``text``."""
        reference = parse_reference(text)
        transport = Transport(
            resolve=self.resolve,
            silence_seconds=self.silence_seconds,
            retries=lambda report: Retries(report, self.pauses.append),
        )
        try:
            if isinstance(reference, HubReference):
                return get(Hub(transport).find(reference, memory, self._waits), self.seen.append)
            assert isinstance(reference, OllamaReference)
            registry = OllamaRegistry(transport, reference, OllamaLayout(ollama_folder()))
            return get(registry.find(self._waits), self.seen.append)
        finally:
            transport.close()

    def _waits(self, note: str) -> None:
        self.seen.append(Progress(stage="wait", note=note))

    @property
    def notes(self) -> list[str]:
        """What was reported for people."""
        return [progress.note for progress in self.seen if progress.note]


def files_below(folder: Path) -> list[str]:
    """The files and links below a folder that aren't locks, sorted."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(str(path.relative_to(folder)) for path in paths if ".locks" not in path.parts)


def pull_process_of(pid: int) -> int | None:
    """The process of the pull that the command ``pid`` has started, if it has."""
    shown = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    found = [line.split() for line in shown.splitlines()]
    return next((int(own) for own, parent, state in found if int(parent) == pid and state[0] != "Z"), None)


def pull_environment(folder: Path, hub: HubServer, registry: OllamaRegistryServer) -> dict[str, str]:
    """The environment of a process that pulls from these servers into ``folder``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TAILRACE_")) and name.upper() not in _PROXIES
    }
    return kept | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "huggingface"),
        "TAILRACE_MODELS": str(folder / "models"),
        "TAILRACE_OLLAMA_REGISTRY": registry.url,
    }


@contextmanager
def local_pulls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPulls]:
    """The servers, running, and this process's configuration for them."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TAILRACE_"))]:
        monkeypatch.delenv(name)
    for name in _PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with pull_servers() as (hub, registry, storage):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("TAILRACE_MODELS", str(folder / "models"))
        monkeypatch.setenv("TAILRACE_OLLAMA_REGISTRY", registry.url)
        yield LocalPulls(hub, registry, storage, folder / "hub", folder / "models" / "ollama")
