"""One question and its reply, for pipes and scripts; a conversation is ``chat_session``'s."""

from __future__ import annotations

import signal
import sys

from tailrace.cli import console_output
from tailrace.cli.chat_history import ChatHistory
from tailrace.cli.chat_model import ChatModel
from tailrace.cli.chat_session import described, show_reply
from tailrace.cli.terminal import Interrupts, Terminal, clean
from tailrace.errors import ConfigurationError

#: The exit status that a shell shows for a program that Ctrl-C ended.
INTERRUPTED = 130


def read_question(prompt: str | None) -> str | None:
    """The one question: the option, the pipe, or both; None means a conversation. Raises ConfigurationError."""
    piped = ""
    if sys.stdin is None or not sys.stdin.isatty():
        data = b"" if sys.stdin is None else sys.stdin.buffer.read()
        try:
            piped = data.decode("utf-8").rstrip("\n")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"what came through the pipe isn't UTF-8 text: {error}") from None
        if not piped and not prompt:
            raise ConfigurationError("nothing to answer: the pipe is empty, and there is no --prompt")
    elif prompt is None and not sys.stdout.isatty():
        raise ConfigurationError("a conversation needs a terminal; for one reply into a file or a pipe give --prompt")
    elif prompt is not None and not prompt.strip():
        raise ConfigurationError("--prompt is empty")
    texts = [text for text in (clean(prompt or ""), piped) if text]
    return "\n\n".join(texts) if texts else None


def answer_once(
    model: ChatModel,
    conversation: ChatHistory,
    question: str,
    terminal: Terminal,
    interrupts: Interrupts,
    *,
    verbose: bool,
) -> int:
    """Answer once; the exit status. ``verbose``: with the figures on standard error."""
    # As with every filter: when the reader has gone (`| head`), so do we, without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    conversation.ask(question)
    _, stats = show_reply(model, conversation, terminal, interrupts)
    if verbose:
        console_output.stderr().print(described(stats), style="dim", soft_wrap=True)
    return INTERRUPTED if stats.ended == "cancelled" else 0
