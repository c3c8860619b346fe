"""A person's terminal: lines in with editing and history, text out with colours. Knows nothing of models.

What a model writes is made harmless on its way: escape sequences could rename the window, or worse.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType

from tailrace.chat.reply_parts import ReasoningPart, ReplyPart, TextPart
from tailrace.folders import state_folder

_readline: ModuleType | None
try:
    # Line editing comes from importing it. Some Pythons are built without: then lines come as the terminal sends them.
    _readline = importlib.import_module("readline")
except ImportError:
    _readline = None

#: Max lines of the saved history.
_HISTORY = 1000
#: Control characters are shown as their pictures, but tab and line feed, and the useless carriage return.
_HARMLESS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"},
    ord("\r"): None,
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
}


def harmless(text: str) -> str:
    """``text`` without control characters that a terminal obeys."""
    return text.translate(_HARMLESS)


class Interrupts:
    """Counts Ctrl-C where it mustn't break into the middle of the engine's bookkeeping."""

    def __init__(self) -> None:
        self.pending = False

    def install(self) -> None:
        """From now on Ctrl-C only sets ``pending``."""
        signal.signal(signal.SIGINT, self._take)

    def _take(self, _: int, __: FrameType | None) -> None:
        self.pending = True


class Terminal:
    """Standard input and output. ``tty``: the output is a terminal."""

    def __init__(self, interrupts: Interrupts) -> None:
        self.tty = sys.stdout.isatty()
        self._styled = self.tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._interrupts = interrupts
        #: The kind of text that the reply showed last, and whether its line has ended.
        self._thinking = False
        self._line_open = False
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # No reply ends because a locale has no emoji.

    # Out

    def part(self, part: ReplyPart) -> None:
        """Show a piece of the reply: text plainly, reasoning dimly and only to a person."""
        if isinstance(part, ReasoningPart):
            if not self.tty:
                return
            if not self._thinking:
                self._style("2")
                self._thinking = True
            self._write(part.text)
        elif isinstance(part, TextPart):
            if self._thinking:
                self._end_thought()
                self._write("\n\n")
            self._write(part.text)
        sys.stdout.flush()

    def end_reply(self) -> None:
        """The reply is over: end its style and its line."""
        if self._thinking:
            self._end_thought()
        if self._line_open:
            self._write("\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Lines of the program's own, dimly."""
        self._style("2")
        if self.tty:
            columns = shutil.get_terminal_size().columns
            text = "\n".join(textwrap.fill(line, columns) if len(line) > columns else line for line in text.split("\n"))
        self._write(text)
        self._style("0")
        self._write("\n")
        sys.stdout.flush()

    def _end_thought(self) -> None:
        self._style("0")
        self._thinking = False

    def _write(self, text: str) -> None:
        if text:
            self._line_open = not text.endswith("\n")
            sys.stdout.write(text.translate(_HARMLESS) if self.tty else text)

    def _style(self, code: str) -> None:
        if self._styled:
            sys.stdout.write(f"\x1b[{code}m")

    # In

    def ask(self, prompt: str) -> str | None:
        """One line, typed after ``prompt``. None at the end of the input (Ctrl-D). Raises KeyboardInterrupt."""
        if self._styled and _readline is not None:
            # readline has to know the characters without width, or it breaks long lines in the wrong place.
            prompt = f"\x01\x1b[1m\x02{prompt}\x01\x1b[0m\x02"
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return clean(input(prompt))
        except EOFError:
            return None
        finally:
            self._interrupts.install()


def clean(text: str) -> str:
    """``text`` with bytes that were no UTF-8 (Python brings them in as surrogates) made visible."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def history_file() -> Path:
    """``$XDG_STATE_HOME/tailrace/history``, or the same under ``~/.local/state``."""
    return state_folder() / "history"


@contextlib.contextmanager
def history(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Within, readline has the lines of earlier runs; afterwards the file has this run's lines too.

    Only this user may read the file. One that can't be read or written costs the history and a line to ``say``, not the
    conversation.
    """
    readline = _readline
    if readline is None:
        yield
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Made by us with its mode before readline writes, so that it is never open to others in between.
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        file.chmod(0o600)
        readline.read_history_file(file)
    except OSError as error:
        say(f"No history of what you type: {file}: {error.strerror or error}")
        yield
        return
    readline.set_history_length(_HISTORY)
    # Python turns it off for its own prompt; here a pasted text is one message, whatever its number of lines.
    readline.parse_and_bind("set enable-bracketed-paste on")
    try:
        yield
    finally:
        try:
            readline.write_history_file(file)
        except OSError as error:
            say(f"What you typed isn't kept: {file}: {error.strerror or error}")
