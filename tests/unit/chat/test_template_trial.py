"""A chat template is tried in a process of its own: one that takes too much can't harm this one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tailrace.chat import template_trial
from tailrace.chat.template import CHATML, ChatTemplate
from tailrace.chat.template_trial import find_defect


def test_a_usual_template_has_no_defect() -> None:
    assert find_defect(CHATML, special_tokens=["<|im_start|>"]) is None


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ " + "(" * 20_000 + ")" * 20_000 + " }}",
        "{{ " + "not " * 20_000 + "true }}",
        "{{ 1" + " + 1" * 20_000 + " }}",
        "{{ a" + ".b" * 20_000 + " }}",
        "{% if a %}" * 3_000 + "{% endif %}" * 3_000,
    ],
    ids=["loops", "parentheses", "nots", "sums", "attributes", "ifs"],
)
def test_a_template_that_takes_too_much_has_a_defect(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(template_trial, "CPU_SECONDS", 0.5)
    assert find_defect(source) is not None


def test_a_template_whose_defect_is_known_is_not_compiled() -> None:
    template = ChatTemplate.of_model("{{ 1", bos_token="", eos_token="", defect="it takes too long")
    assert template.defect == "it takes too long"
    assert template.source == "{{ 1"


def test_a_template_can_be_used_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.run", no_process)
    assert find_defect(CHATML) is None


def test_a_template_that_has_passed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried: list[str] = []

    def run(*args: object, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
        trial = json.loads(kwargs["input"])  # type: ignore[arg-type]  # The trial's JSON.
        tried.append(trial["source"])
        defect = "null" if "good" in trial["source"] else '"no"'
        return subprocess.CompletedProcess([], 0, b'{"defect": %b}' % defect.encode())

    monkeypatch.setattr(subprocess, "run", run)
    for source in ("good", "good", "bad", "bad"):
        assert (find_defect(source, remember=True) is None) == (source == "good")
    assert tried == ["good", "bad", "bad"]
    assert find_defect("good", bos_token="<s>", remember=True) is None
    assert find_defect("good") is None
    assert tried == ["good", "bad", "bad", "good", "good"], "other tokens, and a template that isn't the model's own"
