"""Turn by turn in the terminal: a line is a command or a message, a message gets a reply and a line of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tailrace.chat.reply_parts import TextPart
from tailrace.cli.chat_history import ChatHistory
from tailrace.cli.chat_model import ChatModel, Stats
from tailrace.cli.slash_commands import MoreCommand, run_command
from tailrace.cli.terminal import Interrupts, Terminal, history, history_file
from tailrace.errors import TailraceError


def talk(
    model: ChatModel,
    conversation: ChatHistory,
    terminal: Terminal,
    interrupts: Interrupts,
    *,
    about: Callable[[], str],
    more: Mapping[str, MoreCommand] | None = None,
) -> None:
    """Turn by turn, until /exit or Ctrl-D. ``about``: the model in a line; ``more``: further slash commands."""
    terminal.say(f"{about()}. /help lists the commands, Ctrl-D leaves.")
    with history(history_file(), terminal.say):
        while (line := _line(terminal)) is not None:
            if line.startswith("/"):
                outcome = run_command(line.rstrip(), conversation, about(), more)
                if outcome.action == "exit":
                    return
                if outcome.text:
                    terminal.say(outcome.text)
                if outcome.action != "multi":
                    continue
                line = _several_lines(terminal)
            if line.strip():
                _turn(model, conversation, line.strip(), terminal, interrupts)
    terminal.say("")


def _line(terminal: Terminal) -> str | None:
    try:
        return terminal.ask("> ")
    except KeyboardInterrupt:
        terminal.say("\nCtrl-D or /exit leaves.")
        return ""


def _several_lines(terminal: Terminal) -> str:
    lines: list[str] = []
    try:
        while (line := terminal.ask("| ")) is not None and line.strip() != "/end":
            lines.append(line)
    except KeyboardInterrupt:
        terminal.say("\nDropped.")
        return ""
    if line is None:
        terminal.say("")
    return "\n".join(lines)


def _turn(model: ChatModel, conversation: ChatHistory, text: str, terminal: Terminal, interrupts: Interrupts) -> None:
    conversation.ask(text)
    try:
        reply, stats = show_reply(model, conversation, terminal, interrupts)
    except TailraceError as error:
        conversation.take_back()
        terminal.end_reply()
        terminal.say(
            f"{error}{'' if str(error).endswith('.') else '.'} Your message was taken back; /clear starts over."
        )
        return
    if reply or stats.ended != "cancelled":
        conversation.answer(reply)
        terminal.say(described(stats))
    else:
        conversation.take_back()
        terminal.say("Stopped before the reply began; your message was taken back.")


def show_reply(
    model: ChatModel, conversation: ChatHistory, terminal: Terminal, interrupts: Interrupts
) -> tuple[str, Stats]:
    """Show the reply as it comes; its text without reasoning, and its figures."""
    interrupts.pending = False
    reply = model.reply(conversation)
    texts: list[str] = []
    for parts in reply:
        for part in parts:
            if isinstance(part, TextPart):
                texts.append(part.text)
            terminal.part(part)
        if interrupts.pending:
            interrupts.pending = False
            reply.cancel()
    terminal.end_reply()
    return "".join(texts), reply.stats


def described(stats: Stats) -> str:
    """A reply's figures in one line."""
    figures = [f"{stats.tokens} tokens"]
    if stats.tokens_per_second is not None:
        figures.append(f"{stats.tokens_per_second:.1f} tokens/s")
    figures.append(f"TTFT {stats.first_token:.2f} s")
    if stats.prompt_tokens is not None:
        cached = f"{stats.cached_tokens} of " if stats.cached_tokens is not None else ""
        figures.append(f"{cached}{stats.prompt_tokens} prompt tokens{' cached' if cached else ''}")
    why = {"max_tokens": "cut off at max_tokens", "context": "cut off: the context is full", "cancelled": "stopped"}
    if stats.ended in why:
        figures.append(why[stats.ended])
    return ", ".join(figures)
