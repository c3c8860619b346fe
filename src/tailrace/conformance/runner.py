"""Finds the dialects and models of a server, and checks the rules one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tailrace.conformance.connection import ProtocolError, Response
from tailrace.conformance.dialects import DIALECTS, OLLAMA, OPENAI, Dialect, find
from tailrace.conformance.outcome import NotObserved, RuleBroken, Verdict
from tailrace.conformance.registry import select_rules
from tailrace.conformance.report import Report, Result
from tailrace.conformance.rule import Rule
from tailrace.conformance.session import Limits, Session, describe
from tailrace.conformance.target import CheckError, InvalidOption, Target

#: Longest observation in a report, in characters.
_MAX_OBSERVATION = 300


@dataclass(frozen=True)
class CheckPlan:
    """A planned check: the session, the rules, and the state of each dialect.

    The states are ``checked``, ``not there`` and ``not asked for``.
    """

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
) -> CheckPlan:
    """Find what the server offers. Without ``dialects``, all that it has are checked; named ones are always checked.

    Raises InvalidOption for an unknown dialect or rule, and CheckError when there is no server, no model, or none of
    the dialects.
    """
    for name in dialects:
        if name not in DIALECTS:
            raise InvalidOption(f"there is no dialect {name!r}; there are {', '.join(DIALECTS)}")
    select_rules(list(DIALECTS), only, skip)  # An unknown id fails before the first request.
    limits = limits or Limits()
    target, listed = _find_api(target, limits)
    ollama = model or _ollama_model(target, limits)
    served = model or find(listed, "data", 0, "id") or ollama
    if not isinstance(served, str):
        raise CheckError("the server lists no models; name one with --model")
    probe = Session(target, served, OPENAI, limits, ollama)
    found = {name: "checked" if name in dialects or (not dialects and _has_route(probe, DIALECTS[name])) else ""
             for name in DIALECTS}  # fmt: skip
    checked = [name for name, state in found.items() if state]
    if not checked:
        raise CheckError(f"none of the dialects is there ({', '.join(DIALECTS)}); is the address a base URL?")
    states = {name: state or ("not asked for" if dialects else "not there") for name, state in found.items()}
    session = Session(target, served, DIALECTS[checked[0]], limits, ollama, [DIALECTS[name] for name in checked])
    return CheckPlan(session, select_rules(checked, only, skip), states)


def run(planned: CheckPlan, before: Callable[[Rule], None] = lambda rule: None) -> Report:
    """Check every rule of the plan; ``before`` is called ahead of each. Raises CheckError when the server is gone."""
    started = datetime.now(UTC)
    started_at = time.perf_counter()
    results = []
    for rule in planned.rules:
        before(rule)
        results.append(_run_rule(rule, planned.session))
    session = planned.session
    return Report(
        url=session.target.url,
        model=session.model,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - started_at, 3),
        dialects=planned.dialects,
        results=results,
    )


def _run_rule(rule: Rule, session: Session) -> Result:
    started_at = time.perf_counter()
    try:
        verdict, seen = Verdict.PASS, rule.check(session)
    except RuleBroken as broken:
        verdict, seen = Verdict.FAIL, str(broken)
    except NotObserved as reason:
        verdict, seen = Verdict.NOT_OBSERVED, str(reason)
    except ProtocolError as error:
        verdict, seen = Verdict.FAIL, str(error)
    return Result(
        id=rule.id,
        wire=rule.wire,
        title=rule.title,
        theme=rule.theme,
        dialect=rule.dialect,
        severity=rule.severity,
        verdict=verdict,
        seen=_sanitise(seen, session.target.key),
        breaks=rule.breaks,
        seconds=round(time.perf_counter() - started_at, 3),
    )


def _sanitise(seen: str, key: str | None) -> str:
    """An observation without the API key and without control characters, cut to ``_MAX_OBSERVATION``."""
    if key:
        seen = seen.replace(key, "***")
    seen = "".join(letter if letter.isprintable() else "·" for letter in seen)
    return seen if len(seen) <= _MAX_OBSERVATION else f"{seen[:_MAX_OBSERVATION]}…"


def _find_api(target: Target, limits: Limits) -> tuple[Target, object]:
    """The target with the right prefix of OpenAI's paths, and its list of models (None without one)."""
    for prefix in dict.fromkeys((target.api, target.root)):
        candidate = target.with_api(prefix)
        reply = _get(candidate, f"{prefix}/models", limits)
        if reply.status in (401, 403):
            raise CheckError(f"the server wants {'another' if target.key else 'a'} key (--key): {describe(reply)}")
        body = reply.json()
        if reply.status == 200 and isinstance(body, dict):
            return candidate, body
    return target, None


def _ollama_model(target: Target, limits: Limits) -> str | None:
    reply = _get(target, f"{target.root}/api/tags", limits)
    name = find(reply.json(), "models", 0, "model") if reply.status == 200 else None
    return name if isinstance(name, str) else None


def _get(target: Target, path: str, limits: Limits) -> Response:
    try:
        return Session(target, "", OPENAI, limits).request("GET", path)
    except ProtocolError as error:
        raise CheckError(f"{target.url}: {error}") from error


def _has_route(session: Session, dialect: Dialect) -> bool:
    """Whether the dialect's route exists: a request without a prompt gets no "unknown route". One that depends on the
    model exists where it answers a valid request, or fails at it.
    """
    try:
        if dialect is OLLAMA:
            return session.request("GET", f"{session.target.root}/api/version", dialect=dialect).status == 200
        if dialect.by_model:
            reply = session.post(dialect, session.question_body(dialect))
            return reply.status == 200 or reply.status in (500, 502)
        reply = session.post(dialect, {"model": session.model})
    except ProtocolError:
        return True  # The route does something; the rules report what.
    return reply.status not in (404, 405, 501) or dialect.reports_unknown_model(reply)
