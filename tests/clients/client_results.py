"""The file of test results by client; ``scripts/client_table.py`` makes the documents' tables from it.

Written when ``TAILRACE_CLIENT_RESULTS`` names the file; what it holds of clients that didn't run stays as it was.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from client_matrix import CLIENTS, Client, proofs

RESULTS = Path(__file__).with_name("results.json")


class Results:
    """Gathers outcomes. A proof that was begun and never passed is a failed one."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[str, dict[str, str]]] = {}

    def begin(self, client: Client, way: str, proof: str) -> None:
        """A proof begins."""
        self._outcomes.setdefault(client.name, {}).setdefault(way, {})[proof] = "failed"

    def passed(self, client: Client, way: str, proof: str) -> None:
        """It has held."""
        self._outcomes[client.name][way][proof] = "passed"

    def write(self) -> None:
        """Bring the file up to date, if one is named."""
        name = os.environ.get("TAILRACE_CLIENT_RESULTS")
        if not name:
            return
        path = Path(name)
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for client in CLIENTS:
            if client.name not in self._outcomes:
                continue
            before = known.get(client.name, {})
            # Results of another version don't count.
            held = before["ways"] if before.get("version") == client.version else {}
            fresh = self._outcomes[client.name]
            ways = {way: {**held.get(way, {}), **fresh.get(way, {})} for way in client.ways}
            known[client.name] = {
                "title": client.title,
                "version": client.version,
                "api": client.api,
                "ways": {way: {proof: ways[way].get(proof, "failed") for proof in proofs(client, way)} for way in ways},
            }
        ordered = {client.name: known[client.name] for client in CLIENTS if client.name in known}
        path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
