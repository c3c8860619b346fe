"""The slash commands and the state that they work on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailrace.cli.chat_history import ChatHistory, Parameters, ServerParameters
from tailrace.cli.slash_commands import HELP, MoreCommand, Outcome, run_command
from tailrace.errors import InvalidRequest
from tailrace.generation_params import Sampling

ABOUT = "tiny (a model)"


def talked() -> ChatHistory:
    conversation = ChatHistory("Be brief.")
    conversation.ask("Hi")
    conversation.answer("Hello ✓")
    return conversation


def test_messages_begin_with_the_system_text_where_there_is_one() -> None:
    conversation = talked()
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant"]
    conversation.system = None
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


def test_taking_back_forgets_the_last_turn() -> None:
    conversation = talked()
    conversation.ask("What?")
    conversation.take_back()
    assert conversation.messages == talked().messages


def test_the_defaults_are_the_servers() -> None:
    assert Parameters().sampling == Sampling()


def test_the_parameters_become_the_engines() -> None:
    parameters = Parameters(temperature=1.5, top_k=-1, top_p=0.5, min_p=0.1, repeat_penalty=1.2, seed=-2)
    assert parameters.sampling == Sampling(
        temperature=1.5, top_k=0, top_p=0.5, min_p=0.1, repeat_penalty=1.2, seed=2**64 - 2
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0", 0.0),
        ("top_k", "7", 7),
        ("top_p", "0.5", 0.5),
        ("min_p", "0", 0.0),
        ("seed", "-3", -3),
        ("max_tokens", "12", 12),
        ("repeat_penalty", "1.1", 1.1),
    ],
)
def test_set_changes_each_parameter(name: str, text: str, value: float) -> None:
    conversation = talked()
    assert run_command(f"/set {name} {text}", conversation, ABOUT).text == f"{name} is {value}"
    assert getattr(conversation.parameters, name) == value


@pytest.mark.parametrize("name", ["seed", "max_tokens"])
def test_none_takes_a_parameter_back(name: str) -> None:
    conversation = talked()
    run_command(f"/set {name} 5", conversation, ABOUT)
    assert run_command(f"/set {name} none", conversation, ABOUT).text == f"{name} is none"
    assert getattr(conversation.parameters, name) is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/set temperature 300", "temperature can't be 300: Expected `float` <= 100.0"),
        ("/set temperature warm", "temperature can't be warm"),
        ("/set max_tokens 0", "max_tokens can't be 0"),
        ("/set colour red", "colour can't be set"),
        ("/set", "Usage: /set NAME VALUE"),
        ("/set temperature", "Usage: /set NAME VALUE"),
        ("/sing", "/sing is no command"),
        ("/save", "Usage: /save FILE"),
        ("/load /nowhere/at/all", "/nowhere/at/all: No such file"),
    ],
)
def test_a_wrong_line_is_reported_and_changes_nothing(line: str, complaint: str) -> None:
    conversation = talked()
    outcome = run_command(line, conversation, ABOUT)
    assert complaint in outcome.text
    assert outcome.action == "none"
    assert conversation.encode() == talked().encode()


def test_none_takes_a_parameter_back_to_its_default() -> None:
    conversation = talked()
    run_command("/set temperature 0.1", conversation, ABOUT)
    assert run_command("/set temperature none", conversation, ABOUT).text == "temperature is 0.8"
    conversation.parameters = ServerParameters(temperature=0.1)
    assert run_command("/set temperature none", conversation, ABOUT).text == "temperature is none"


def test_further_commands_are_listed_and_run() -> None:
    more = {"/models": MoreCommand("/models  lists them", lambda argument: Outcome(f"got {argument}"))}
    assert run_command("/models now", talked(), ABOUT, more).text == "got now"
    assert run_command("/help", talked(), ABOUT, more).text == f"/models  lists them\n{HELP}"
    assert "no command" in run_command("/models now", talked(), ABOUT).text


def test_what_the_server_decides_is_not_saved(tmp_path: Path) -> None:
    conversation = talked()
    conversation.parameters = ServerParameters(top_p=0.5)
    run_command(f"/save {tmp_path}/chat.json", conversation, ABOUT)
    saved = json.loads((tmp_path / "chat.json").read_bytes())
    assert {name for name in saved if name != "messages"} == {"top_p"}
    conversation.parameters = ServerParameters()
    run_command(f"/load {tmp_path}/chat.json", conversation, ABOUT)
    assert conversation.parameters == ServerParameters(top_p=0.5)


def test_clear_keeps_the_system_text_and_the_parameters() -> None:
    conversation = talked()
    run_command("/set top_k 3", conversation, ABOUT)
    run_command("/clear", conversation, ABOUT)
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation.parameters.top_k == 3


def test_system_sets_and_removes() -> None:
    conversation = talked()
    run_command("/system  Speak Latin. ", conversation, ABOUT)
    assert conversation.system == "Speak Latin."
    run_command("/system", conversation, ABOUT)
    assert conversation.system is None


def test_show_prints_everything() -> None:
    shown = run_command("/show", talked(), ABOUT).text
    for part in (ABOUT, "system Be brief.", "2 messages", *Parameters.__struct_fields__):
        assert part in shown


def test_help_names_every_command() -> None:
    assert run_command("/help", talked(), ABOUT).text == HELP
    for word in ("/clear", "/system", "/set", "/show", "/save", "/load", "/multi", "/exit"):
        assert word in HELP


def test_exit_and_multi_are_for_the_terminal() -> None:
    assert run_command("/exit", talked(), ABOUT).action == "exit"
    assert run_command("/multi", talked(), ABOUT).action == "multi"


def test_what_is_saved_is_a_chat_request_and_loads_again(tmp_path: Path) -> None:
    conversation = talked()
    conversation.parameters = Parameters(temperature=0.0, seed=4)
    path = tmp_path / "a talk.json"
    run_command(f"/save {path}", conversation, ABOUT)
    saved = json.loads(path.read_bytes())
    assert saved["messages"] == conversation.messages
    assert saved["seed"] == 4
    assert "max_tokens" not in saved

    other = ChatHistory("Something else")
    assert run_command(f"/load {path}", other, ABOUT).text == f"2 messages loaded from {path}"
    assert other.encode() == conversation.encode()


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"messages": [{"role": "user"}]}', b'{"messages": 3}'])
def test_what_is_no_conversation_is_refused_and_changes_nothing(data: bytes) -> None:
    conversation = talked()
    with pytest.raises(InvalidRequest, match="no saved conversation"):
        conversation.restore(data)
    assert conversation.encode() == talked().encode()
