"""Assertions on whole responses: their status, their JSON and their token counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tailrace.conformance.connection import Response
from tailrace.conformance.dialects import Dialect, find
from tailrace.conformance.outcome import RuleBroken, require
from tailrace.conformance.session import Session, describe, excerpt

#: one-api disables a channel whose error contains one of these words.
DISABLING_WORDS = (b"credit", b"balance", b"permission denied")


def expect_answer(session: Session, dialect: Dialect) -> str:
    """The plain question gets a 200 with JSON of the dialect's shape."""
    reply = session.plain_response(dialect)
    require(reply.status == 200, describe(reply))
    require(reply.media_type.lower() == "application/json", f"content-type: {reply.header('content-type')}")
    text = dialect.reply_text(reply.json())
    if text is None:
        raise RuleBroken(f"no such answer: {excerpt(reply.body)}")
    return f"200, {text[:40]!r}" if text else "200"


def expect_ok(reply: Response) -> str:
    """A valid request gets a 200."""
    require(reply.status == 200, describe(reply))
    return "200"


def expect_error(dialect: Dialect, reply: Response, statuses: Iterable[int] = range(400, 500)) -> str:
    """The response is an error: one of ``statuses``, with JSON in the dialect's shape."""
    require(reply.status in statuses, describe(reply))
    require(
        reply.media_type.lower() == "application/json",
        f"{reply.status} with content-type: {reply.header('content-type')}",
    )
    fault = dialect.error_fault(reply.json())
    require(fault is None, f"{reply.status}, but {fault}")
    return str(reply.status)


def expect_error_naming(reply: Response, field: str, value: str) -> str:
    """A 400 (or 422) whose error names the field."""
    asked = f"{field}: {value}"
    require(reply.status in (400, 422), f"{asked} gave {describe(reply)}")
    require(field.encode() in reply.body, f"{asked} gave an error without its name: {describe(reply)}")
    return f"{asked} gives {reply.status}"


def expect_positive_counts(usage: Any, *names: str) -> str:
    """Each named count of ``usage`` is an integer over zero."""
    for name in names:
        value = find(usage, name)
        require(type(value) is int and value > 0, f"{name} is {value!r}")
    return ", ".join(f"{name} {usage[name]}" for name in names)


def expect_usage_sum(usage: Any) -> str:
    """OpenAI's three counts are positive integers, and ``total_tokens`` is the sum of the others."""
    seen = expect_positive_counts(usage, "prompt_tokens", "completion_tokens", "total_tokens")
    fits = usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    require(fits, f"{seen}: the total isn't the sum")
    return seen
