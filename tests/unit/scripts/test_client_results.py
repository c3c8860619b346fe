"""The documents say of the clients what was proven, with the versions that are locked."""

from __future__ import annotations

from pathlib import Path

import pytest

import client_table
import setup_clients
from client_matrix import CLIENTS, LOCKS, proofs
from setup_pip import SetupError

ROOT = Path(__file__).parents[3]


def test_the_clients_page_shows_the_committed_results() -> None:
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert client_table.replaced(text, client_table.summary(client_table.load())) == text


def test_every_client_was_proven_in_its_locked_version_on_all_its_ways() -> None:
    results = client_table.load()
    assert set(results) == {client.name for client in CLIENTS}
    for client in CLIENTS:
        held = results[client.name]
        assert held["version"] == client.version, f"{client.name} has changed: make test-clients"
        assert held["ways"] == {way: dict.fromkeys(proofs(client, way), "passed") for way in client.ways}


def test_locks_name_versions_and_no_addresses() -> None:
    for lock in LOCKS.values():
        assert "://" not in lock.read_text(encoding="utf-8"), lock
    for lock in (LOCKS["python"], LOCKS["open-webui"]):
        assert all(line.count("==") == 1 for line in lock.read_text(encoding="utf-8").splitlines())


def test_a_failed_proof_is_named_in_the_table() -> None:
    assert client_table.cell({"stream": "passed", "whole": "failed"}) == "1 of 2: not whole"
    assert client_table.cell({"stream": "passed"}) == "1 of 1"
    assert client_table.cell(None) == ""


def test_without_node_or_chromium_the_message_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"need Node\.js.*apt install nodejs npm"):
        setup_clients.check_node(str(tmp_path))
    with pytest.raises(SetupError, match="apt install chromium"):
        setup_clients.check_chromium(str(tmp_path))
    node, npm = tmp_path / "node", tmp_path / "npm"
    for tool, text in ((node, "echo v12.22.9"), (npm, "true")):
        tool.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        tool.chmod(0o755)
    with pytest.raises(SetupError, match=r"need Node\.js 20, and .* is v12\.22\.9"):
        setup_clients.check_node(str(tmp_path))
