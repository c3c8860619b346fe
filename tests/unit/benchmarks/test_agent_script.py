"""The script of an agent's conversation: what each kind of turn changes, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.agent_script import AgentScript

Messages = list[dict[str, Any]]


@pytest.fixture
def script() -> AgentScript:
    """A script after two questions and two tool results."""
    found = AgentScript(20)
    for number, kind in enumerate(("question", "tool", "question", "tool")):
        found.next_messages(kind)
        found.add_reply(f"thought{number} said{number}")
    return found


def test_a_tool_result_is_appended(script: AgentScript) -> None:
    before = script.next_messages("again")
    script.add_reply("thought said")
    after = script.next_messages("tool")
    assert after[: len(before)] == before
    assert [message["role"] for message in after[len(before) :]] == ["assistant", "tool"]


def test_the_same_messages_come_again(script: AgentScript) -> None:
    first = script.next_messages("again")
    script.add_reply("another reply")
    assert script.next_messages("again") == first
    assert first[-1]["role"] != "assistant"


def test_an_edit_changes_the_last_message_alone(script: AgentScript) -> None:
    before = script.next_messages("again")
    after = script.next_messages("edit")
    assert after[:-1] == before[:-1]
    assert after[-1]["role"] == before[-1]["role"]
    assert after[-1]["content"] != before[-1]["content"]


def test_a_question_takes_the_thinking_off_earlier_replies(script: AgentScript) -> None:
    during = [message["content"] for message in script.next_messages("again") if message["role"] == "assistant"]
    script.add_reply("thought4 said4")
    after = [message["content"] for message in script.next_messages("question") if message["role"] == "assistant"]
    assert during == ["said0", "said1", "thought2 said2"]
    assert after == ["said0", "said1", "said2", "said4"]


def test_branches_share_a_beginning_and_take_turns(script: AgentScript) -> None:
    first = script.next_messages("again")
    other = script.next_messages("branch")
    assert other[:3] == first[:3]
    assert other[-1]["content"] not in [message["content"] for message in first]
    script.add_reply("reply in the other branch")
    back = script.next_messages("branch")
    assert [message["content"] for message in first if message["role"] == "user"] == [
        message["content"] for message in back if message["role"] == "user"
    ][:-1]


def test_a_script_is_the_same_each_time() -> None:
    one, other = AgentScript(30), AgentScript(30)
    kinds = list(one.kinds(40))
    assert kinds == list(other.kinds(40))
    assert set(kinds) == {"question", "tool", "again", "edit", "branch"}
    for kind in kinds:
        assert one.next_messages(kind) == other.next_messages(kind)
        one.add_reply("some reply")
        other.add_reply("some reply")
