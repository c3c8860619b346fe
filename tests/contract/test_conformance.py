"""The rules of ``tailrace check``: a server that keeps all passes, one that breaks one fails this one alone."""

from __future__ import annotations

import pytest

from faults import FAULTS, LONG, Fault, failing
from good_dialects import respond
from model_server import Alter, ModelServer
from tailrace.conformance import runner
from tailrace.conformance.outcome import Verdict
from tailrace.conformance.registry import RULES
from tailrace.conformance.report import Report
from tailrace.conformance.rule import ANY, Rule
from tailrace.conformance.session import Limits
from tailrace.conformance.target import parse

KEY = "s3cret"
#: Patient where time doesn't matter; keep-alives have to come within half a second.
LIMITS: dict[str, float] = {
    "max_silence": 0.3,
    "timeout": 20,
    "max_delay": 10,
    "long_prompt_words": 32,
    "min_long_reply": 0.8,
}
#: Rules that can't be observed on a server without a key that never fails.
UNSEEN = {"wrong-key", "either-header", "error-in-stream"}
#: The rule with a long reply.
SLOW_RULE = "cancel"


def examine(alter: Alter | None = None, *, key: str | None = None, rule: str | None = None, **limits: float) -> Report:
    """A check of the server so altered; with ``rule``, of what could be broken beside it."""
    dialects: list[str] = []
    skip: list[str] = []
    if rule is not None:
        # Of any dialect are the chat's, so that another dialect's fault can't be theirs.
        dialects = list(dict.fromkeys(["openai", *({RULES[rule].dialect} - {ANY})]))
        skip = [known.id for known in RULES.values() if known.id != rule and _is_apart(known, RULES[rule])]
    with ModelServer(respond, alter, key) as server:
        target = parse(server.url, key=key)
        settings = Limits(**{**LIMITS, **limits})  # type: ignore[arg-type]  # limits of several types
        return runner.run(runner.plan(target, dialects=dialects, skip=skip, limits=settings))


def _is_apart(known: Rule, broken: Rule) -> bool:
    return known.id == SLOW_RULE or (known.dialect in (ANY, "openai") and broken.dialect not in (ANY, "openai"))


def named(report: Report, verdict: Verdict) -> dict[str, str]:
    """The rules with that verdict, and what was seen."""
    return {result.id: result.seen for result in report.results if result.verdict is verdict}


def test_a_conforming_server_passes_every_rule() -> None:
    report = examine(long_prompt_words=LONG)
    assert not named(report, Verdict.FAIL)
    assert set(named(report, Verdict.NOT_OBSERVED)) == UNSEEN
    assert {result.id for result in report.results} == set(RULES)
    assert report.exit_status == 0


def test_rules_about_keys_pass_with_a_key() -> None:
    report = examine(key=KEY, rule="wrong-key", long_prompt_words=LONG)
    assert not named(report, Verdict.FAIL)
    assert set(named(report, Verdict.NOT_OBSERVED)) == {"any-key", "error-in-stream"}


def test_a_correctly_failing_stream_passes() -> None:
    report = examine(failing(), rule="error-in-stream")
    assert not named(report, Verdict.FAIL)
    assert "error-in-stream" in named(report, Verdict.PASS)


def test_every_rule_has_a_server_that_breaks_it() -> None:
    assert {fault.rule for fault in FAULTS} == set(RULES)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.rule}: {fault.name}")
def test_a_server_that_breaks_one_rule_fails_only_this_rule(fault: Fault) -> None:
    report = examine(fault.alter, key=KEY if fault.keyed else None, rule=fault.rule, **fault.limits)
    failed = named(report, Verdict.FAIL)
    assert set(failed) == {fault.rule}, failed
    assert failed[fault.rule]
