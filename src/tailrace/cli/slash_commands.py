"""The slash commands of ``tailrace run`` and ``chat``: each changes the conversation or returns a text.

They touch no terminal: a command returns its output. ``/save`` and ``/load`` are the only ones that touch
files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from tailrace.cli.chat_history import ChatHistory
from tailrace.errors import InvalidRequest, TailraceError


@dataclass(frozen=True)
class Outcome:
    """The text to show, and the terminal's next action."""

    text: str = ""
    action: Literal["none", "multi", "exit"] = "none"


@dataclass(frozen=True)
class MoreCommand:
    """A command of one program alone: its line of the help, and what it does with its argument."""

    help: str
    run: Callable[[str], Outcome]


def run_command(
    line: str, conversation: ChatHistory, about: str, more: Mapping[str, MoreCommand] | None = None
) -> Outcome:
    """Run the command in ``line``, which begins with a slash. ``about`` is the model's line in ``/show``, and ``more``
    has further commands.

    An error in the line becomes the outcome's text: a typing error doesn't end the conversation.
    """
    word, _, argument = line.partition(" ")
    more = more or {}
    if word == "/help":
        return Outcome("\n".join([*(command.help for command in more.values()), HELP]))
    if word not in more and word not in _COMMANDS:
        return Outcome(
            f"{word} is no command; /help lists them. Put a space before a message that begins with a slash."
        )
    try:
        if word in more:
            return more[word].run(argument.strip())
        return _COMMANDS[word](conversation, argument.strip(), about)
    except TailraceError as error:
        return Outcome(str(error))
    except OSError as error:
        return Outcome(f"{argument.strip()}: {error.strerror or error}")


def _clear(conversation: ChatHistory, _: str, __: str) -> Outcome:
    conversation.clear()
    return Outcome("The conversation starts over.")


def _system(conversation: ChatHistory, text: str, _: str) -> Outcome:
    conversation.system = text or None
    return Outcome("The system text is set." if text else "The system text is gone.")


def _set(conversation: ChatHistory, argument: str, _: str) -> Outcome:
    name, _, value = argument.partition(" ")
    value = value.strip()
    if not name or not value:
        names = ", ".join(conversation.parameters.__struct_fields__)
        raise InvalidRequest(f"Usage: /set NAME VALUE, where NAME is one of {names}")
    default = getattr(type(conversation.parameters)(), name, None)
    conversation.parameters = conversation.parameters.changed(name, default if value == "none" else value)
    return Outcome(f"{name} is {_shown(getattr(conversation.parameters, name))}")


def _show(conversation: ChatHistory, _: str, about: str) -> Outcome:
    parameters = msgspec.structs.asdict(conversation.parameters)
    lines = [about, *(f"{name} {_shown(value)}" for name, value in parameters.items())]
    lines.append(f"system {conversation.system or 'none'}")
    lines.append(f"{len(conversation.turns)} messages so far")
    return Outcome("\n".join(lines))


def _save(conversation: ChatHistory, argument: str, _: str) -> Outcome:
    path = _path(argument, "/save FILE")
    path.write_bytes(conversation.encode())
    return Outcome(f"Saved to {path}")


def _load(conversation: ChatHistory, argument: str, _: str) -> Outcome:
    path = _path(argument, "/load FILE")
    conversation.restore(path.read_bytes())
    return Outcome(f"{len(conversation.turns)} messages loaded from {path}")


def _multi(_: ChatHistory, __: str, ___: str) -> Outcome:
    return Outcome("Several lines; a line with /end alone or Ctrl-D sends them, Ctrl-C drops them.", "multi")


def _exit(_: ChatHistory, __: str, ___: str) -> Outcome:
    return Outcome(action="exit")


def _path(argument: str, usage: str) -> Path:
    if not argument:
        raise InvalidRequest(f"Usage: {usage}")
    return Path(argument).expanduser()


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


_COMMANDS: dict[str, Callable[[ChatHistory, str, str], Outcome]] = {
    "/clear": _clear,
    "/system": _system,
    "/set": _set,
    "/show": _show,
    "/save": _save,
    "/load": _load,
    "/multi": _multi,
    "/exit": _exit,
}

HELP = """\
/clear            start the conversation over
/system TEXT      set the system text; without TEXT there is none
/set NAME VALUE   temperature, top_k, top_p, min_p, repeat_penalty, seed, max_tokens; "none" takes one back
/show             the model, the parameters, the system text
/save FILE        save the conversation as the body of a chat completion request
/load FILE        go on with a saved conversation
/multi            write a message of several lines
/exit             leave, as Ctrl-D does
Ctrl-C            stop the reply; what came of it stays in the conversation"""
