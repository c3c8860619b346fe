"""The address of an ingress: who listens there, and how a new process takes it over from the one of a dead actor.

Several processes may listen at one address (SO_REUSEPORT). That is wanted for a successor alone, so each process has in
its environment which place it holds: a hash of the cluster's secret and the address.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
from pathlib import Path

from tailrace.errors import ConfigurationError
from tailrace.settings import Settings

#: The variable with the place, in the environment of an ingress's process.
VARIABLE = "TAILRACE_INGRESS_PLACE"
#: Connections that the kernel holds until they are accepted.
_BACKLOG = 2_048


def place_of(settings: Settings) -> str:
    """The place of an ingress with these settings. It says nothing of the secret."""
    text = f"{settings.cluster_secret}\n{settings.host}\n{settings.port}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def listen(settings: Settings) -> socket.socket:
    """A socket that listens at the address, which another process of the same place may share.

    Raises ConfigurationError where the address can't be had.
    """
    try:
        with _socket(settings) as probe:
            probe.bind((settings.host, settings.port))
    except OSError as error:
        if not processes(place_of(settings)):
            raise ConfigurationError(
                f"the ingress can't listen on {settings.host}:{settings.port}: {error.strerror or error}; "
                "set another host or port"
            ) from error
    sock = _socket(settings)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((settings.host, settings.port))
    sock.listen(_BACKLOG)
    return sock


def processes(place: str) -> list[int]:
    """The ingress processes of this user on this machine that hold the place."""
    wanted = f"{VARIABLE}={place}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # Another user's process, or one that has ended meanwhile.
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def take_over(place: str, own: int) -> list[int]:
    """Have all other processes of the place leave new connections to the process ``own``, and drain; their ids."""
    others = [pid for pid in processes(place) if pid != own]
    for pid in others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)
    return others


def _socket(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock
