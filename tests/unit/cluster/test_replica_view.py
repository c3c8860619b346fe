"""A replica's view follows the messages of its channel."""

from __future__ import annotations

import pytest

from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster_protocol.prefix_chain import pack_hashes
from tailrace.cluster_protocol.state import (
    STATE_VERSION,
    HeldBlocks,
    ModelLoad,
    ReplicaPhase,
    ReplicaState,
    StateChange,
    StateHeartbeat,
)
from tailrace.models.reference import name_keys


def view() -> ReplicaView:
    made = ReplicaView("r1", "127.0.0.1", 1)
    made.apply(
        ReplicaState(
            version=STATE_VERSION,
            phase="ready",
            models=[
                ModelLoad(name="qwen", keys=name_keys("qwen", "hf:Org/Qwen:Q4_K_M"), aliases=("gpt-*",), running=2)
            ],
            held=[HeldBlocks("cells", pack_hashes([1, 2])), HeldBlocks("disk", pack_hashes([3]))],
        )
    )
    return made


def test_it_takes_requests_from_its_first_state_on() -> None:
    assert not ReplicaView("r1", "127.0.0.1", 1).takes_requests
    assert view().takes_requests


@pytest.mark.parametrize("phase", ["starting", "draining"])
def test_one_that_drains_or_starts_takes_none(phase: ReplicaPhase) -> None:
    made = view()
    made.apply(StateChange(phase=phase))
    assert not made.takes_requests


def test_changes_add_move_and_remove_blocks() -> None:
    made = view()
    made.apply(StateChange(held=[HeldBlocks("host", pack_hashes([2, 4]))], removed=pack_hashes([1, 99])))
    assert made.held == {2: "host", 3: "disk", 4: "host"}


def test_a_heartbeat_changes_nothing() -> None:
    made, same = view(), view()
    made.apply(StateHeartbeat())
    assert (made.models, made.held, made.phase) == (same.models, same.held, same.phase)


def test_a_replica_that_has_gone_holds_nothing_until_its_next_state() -> None:
    made = view()
    made.mark_gone()
    assert not made.takes_requests
    assert not made.held
    made.apply(ReplicaState(version=STATE_VERSION, phase="ready"))
    assert made.takes_requests


@pytest.mark.parametrize("name", ["qwen", "QWEN", "qwen:latest", "org/qwen", "gpt-4", "GPT-4o"])
def test_a_model_is_found_by_its_names_in_any_spelling(name: str) -> None:
    found = view().load_of(name)
    assert found is not None
    assert found.running == 2


def test_a_model_that_is_not_served_is_not_found() -> None:
    assert view().load_of("llama") is None
