"""The log of all processes: lines on standard error, each with the name of its process.

No text of a client can begin a line or change a terminal: ``safe_text`` escapes it. Writing never waits: see
``log_writer``. Lines of libraries (uvicorn, asyncio) and of uncaught exceptions have the same form. A server's lines
are also in the ring of their process (``log_page``), for its operator's page.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog

from tailrace.observe import log_writer, safe_text
from tailrace.observe.log_limit import LogLimit
from tailrace.shared_memory.log_page import LogRing

Renderer = Callable[[object, str, structlog.typing.EventDict], str]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: Fields that a ring's line leaves out: it has its own time, level and process, and no text of a prompt.
_NOT_IN_RING = frozenset({"event", "level", "process", "exception", "prompt"})
_COLOURS = {"debug": "32", "info": "32", "warning": "33", "error": "31", "critical": "31"}


def configure(process: str, *, level: str, form: str, fd: int = 2) -> None:
    """Configure this process's log. ``form`` is ``console`` or ``json``; ``fd`` is where its lines go.

    Warnings and errors of libraries go into the same log.
    """
    if fd != 2:
        log_writer.use(fd)
    limit = LogLimit()
    render: Renderer = _json if form == "json" else _console(colours=os.isatty(fd))
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_process(process),
        _add_exception,
    ]
    to_ring = _to_ring(process)
    structlog.configure(
        processors=[limit, *shared, to_ring, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=log_writer.standard_error()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(log_writer.standard_error())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, to_ring, render],
        )
    )
    handler.addFilter(limit)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    _log_uncaught()
    log_writer.standard_error().note = lambda lines: "{}\n".format(
        render(
            None, "warning", {"event": "log lines were dropped: nothing read them", "lines": lines, "process": process}
        )
    )


_ring: LogRing | None = None


def record_in(ring: LogRing | None) -> None:
    """Have this process's lines in ``ring``, too, from now on; None: in none."""
    global _ring
    _ring = ring


def _to_ring(process: str) -> structlog.typing.Processor:
    def record(_: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if (ring := _ring) is not None:
            words = [safe_text.one_line(str(event.get("event", "")))]
            for name, value in event.items():
                if name not in _NOT_IN_RING:
                    words.append(_named(name, value))
            exception = event.get("exception")
            text = " ".join(words) if exception is None else f"{' '.join(words)}\n{exception}"
            ring.write(time.time(), str(event.get("level", method)), process, text)
        return event

    return record


def _named(name: str, value: object, painted: Callable[[str], str] = str) -> str:
    """A field as ``name=value``."""
    text = safe_text.one_line(value if isinstance(value, str) else repr(value))
    return f"{painted(safe_text.one_line(name))}={_quoted(text)}"


def _add_process(process: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    return add


def _add_exception(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace ``exc_info`` by the traceback's text. It has no local variables, which may be prompts and keys."""
    wanted = event.pop("exc_info", None)
    if wanted:
        found = wanted if isinstance(wanted, tuple) else None
        if isinstance(wanted, BaseException):
            found = (type(wanted), wanted, wanted.__traceback__)
        if found is None:
            found = sys.exc_info()
        if found[0] is not None:
            event["exception"] = safe_text.lines("".join(traceback.format_exception(*found)).rstrip())
    return event


def _json(_: object, method: str, event: structlog.typing.EventDict) -> str:
    """A JSON object in ASCII: nothing in it ends the line."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"timestamp": now, "level": event.pop("level", method), "event": str(event.pop("event", ""))}
    return json.dumps({**line, **{str(name): _shortened(value) for name, value in event.items()}}, default=repr)


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > safe_text.MAX_VALUE and "\n" not in value:
        return f"{value[: safe_text.MAX_VALUE]}… ({len(value)} characters)"
    return value


def _console(*, colours: bool) -> Renderer:
    """Time, level, event, and ``name=value`` for the rest. A traceback's lines begin with a bar, as no other line."""

    def painted(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colours else text

    def render(_: object, method: str, event: structlog.typing.EventDict) -> str:
        exception = event.pop("exception", None)
        level = event.pop("level", method)
        parts = [
            painted(time.strftime("%H:%M:%S"), "2"),
            f"[{painted(level, _COLOURS.get(level, '0'))}]",
            painted(safe_text.one_line(str(event.pop("event", ""))), "1"),
        ]
        for name, value in event.items():
            parts.append(_named(name, value, lambda name: painted(name, "36")))
        line = " ".join(parts)
        if exception is not None:
            line += "".join(f"\n  | {each}" for each in str(exception).split("\n"))
        return line

    return render


def _quoted(text: str) -> str:
    """The value, in quotes where it could pass for several values: a space or a quote is in it."""
    if text and not any(character in text for character in ' "='):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _log_uncaught() -> None:
    """Have exceptions that end a thread or the process, or that can't be raised, logged as others are."""

    def log(what: str) -> Callable[[type[BaseException], BaseException | None, TracebackType | None], None]:
        def write(
            kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, **names: str
        ) -> None:
            if issubclass(kind, KeyboardInterrupt):
                sys.__excepthook__(kind, error or kind(), trace)
                return
            structlog.get_logger().critical(what, exc_info=(kind, error, trace), **names)

        return write

    uncaught, in_thread, ignored = log("an exception ends the process"), log("a thread has died"), log("an exception")
    sys.excepthook = lambda kind, error, trace: uncaught(kind, error, trace)
    threading.excepthook = lambda found: in_thread(found.exc_type, found.exc_value, found.exc_traceback)
    sys.unraisablehook = lambda found: ignored(found.exc_type, found.exc_value, found.exc_traceback)
