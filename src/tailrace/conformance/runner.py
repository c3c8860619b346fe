"""Finds out what a server speaks, and holds it against the rules, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tailrace.conformance.connection import Reply, WireError
from tailrace.conformance.dialects import DIALECTS, OLLAMA, OPENAI, Dialect, find
from tailrace.conformance.report import Report, Result
from tailrace.conformance.rule import Broken, NotSeen, Rule, Verdict
from tailrace.conformance.session import Limits, Session, summary
from tailrace.conformance.table import choose
from tailrace.conformance.target import CheckError, Target, WrongOption

#: Most characters of what was seen.
_MOST_SEEN = 300


@dataclass(frozen=True)
class Plan:
    """What is to be run: the session, the rules, and what became of each dialect (``checked`` or ``not there``)."""

    session: Session
    rules: list[Rule]
    dialects: dict[str, str]


def plan(
    target: Target,
    *,
    dialects: Sequence[str] = (),
    model: str | None = None,
    limits: Limits | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> Plan:
    """Look what the server has. ``dialects`` are checked even where they aren't there; without them all that are.

    Raises WrongOption for a dialect or rule that doesn't exist, and CheckError when there is no server, no model, or
    none of the dialects.
    """
    for name in dialects:
        if name not in DIALECTS:
            raise WrongOption(f"there is no dialect {name!r}; there are {', '.join(DIALECTS)}")
    choose(list(DIALECTS), only, skip)  # Ids that there aren't are told before anything is asked.
    limits = limits or Limits()
    target, listed = _find_api(target, limits)
    ollama = model or _ollama_model(target, limits)
    served = model or find(listed, "data", 0, "id") or ollama
    if not isinstance(served, str):
        raise CheckError("the server lists no models; name one with --model")
    probe = Session(target, served, OPENAI, limits, ollama)
    found = {name: "checked" if name in dialects or (not dialects and _is_there(probe, DIALECTS[name])) else ""
             for name in DIALECTS}  # fmt: skip
    checked = [name for name, state in found.items() if state]
    if not checked:
        raise CheckError(f"none of the dialects is there ({', '.join(DIALECTS)}); is the address a base URL?")
    states = {name: state or ("not asked for" if dialects else "not there") for name, state in found.items()}
    session = Session(target, served, DIALECTS[checked[0]], limits, ollama, [DIALECTS[name] for name in checked])
    return Plan(session, choose(checked, only, skip), states)


def run(planned: Plan, before: Callable[[Rule], None] = lambda rule: None) -> Report:
    """Hold the server against every rule of the plan; ``before`` is called ahead of each. Raises CheckError when the
    server is gone.
    """
    started = datetime.now(UTC)
    begun = time.perf_counter()
    results = []
    for rule in planned.rules:
        before(rule)
        results.append(_judge(rule, planned.session))
    session = planned.session
    return Report(
        url=session.target.url,
        model=session.model,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - begun, 3),
        dialects=planned.dialects,
        results=results,
    )


def _judge(rule: Rule, session: Session) -> Result:
    begun = time.perf_counter()
    try:
        verdict, seen = Verdict.PASS, rule.check(session)
    except Broken as broken:
        verdict, seen = Verdict.FAIL, str(broken)
    except NotSeen as reason:
        verdict, seen = Verdict.NOT_SEEN, str(reason)
    except WireError as error:
        verdict, seen = Verdict.FAIL, str(error)
    return Result(
        id=rule.id,
        wire=rule.wire,
        title=rule.title,
        theme=rule.theme,
        dialect=rule.dialect,
        severity=rule.severity,
        verdict=verdict,
        seen=_harmless(seen, session.target.key),
        breaks=rule.breaks,
        seconds=round(time.perf_counter() - begun, 3),
    )


def _harmless(seen: str, key: str | None) -> str:
    """What a server said, without the key, without control characters, and no longer than anyone reads."""
    if key:
        seen = seen.replace(key, "***")
    seen = "".join(letter if letter.isprintable() else "·" for letter in seen)
    return seen if len(seen) <= _MOST_SEEN else f"{seen[:_MOST_SEEN]}…"


def _find_api(target: Target, limits: Limits) -> tuple[Target, object]:
    """The target with OpenAI's paths where they are, and its list of models (None without one)."""
    for candidate in dict.fromkeys((target.api, target.root)):
        there = target.with_api(candidate)
        reply = _get(there, f"{candidate}/models", limits)
        if reply.status in (401, 403):
            raise CheckError(f"the server wants {'another' if target.key else 'a'} key (--key): {summary(reply)}")
        body = reply.json()
        if reply.status == 200 and isinstance(body, dict):
            return there, body
    return target, None


def _ollama_model(target: Target, limits: Limits) -> str | None:
    reply = _get(target, f"{target.root}/api/tags", limits)
    name = find(reply.json(), "models", 0, "model") if reply.status == 200 else None
    return name if isinstance(name, str) else None


def _get(target: Target, path: str, limits: Limits) -> Reply:
    try:
        return Session(target, "", OPENAI, limits).ask("GET", path)
    except WireError as error:
        raise CheckError(f"{target.url}: {error}") from error


def _is_there(session: Session, dialect: Dialect) -> bool:
    """Whether the dialect's route exists: an empty request gets another answer than that there is none."""
    try:
        if dialect is OLLAMA:
            return session.ask("GET", f"{session.target.root}/api/version", dialect=dialect).status == 200
        reply = session.post(dialect, {"model": session.model})
    except WireError:
        return True  # It does something; the rules tell what.
    return reply.status not in (404, 405, 501) or dialect.says_that_the_model_is_unknown(reply)
