"""Measured speed beside the predicted one: which steps count, and when a reason is told."""

from __future__ import annotations

import pytest
import structlog

from tailrace.engine.devices.speed_watch import PredictedSeconds, SpeedWatch

_STEPS = 30


def _watch(decode: float = 0.010, doubts: tuple[str, ...] = ()) -> SpeedWatch:
    return SpeedWatch(lambda _: PredictedSeconds(decode, 0.001), doubts)


def _decode(watch: SpeedWatch, seconds: float, steps: int = _STEPS) -> None:
    for _ in range(steps):
        watch.observe(decoding=1, prompt_tokens=0, drafted=False, depth=100, seconds=seconds)


def test_nothing_is_measured_before_the_first_replies() -> None:
    found = _watch().figures
    assert (found.decode, found.prompt, found.reason) == (0.0, 0.0, "")
    assert (found.predicted_decode, found.predicted_prompt) == pytest.approx((100, 1000))


def test_steps_of_one_reply_and_passes_of_prompts_alone_count() -> None:
    watch = _watch()
    _decode(watch, 0.008)
    for _ in range(_STEPS):
        watch.observe(decoding=2, prompt_tokens=0, drafted=False, depth=100, seconds=1.0)
        watch.observe(decoding=1, prompt_tokens=9, drafted=False, depth=100, seconds=1.0)
        watch.observe(decoding=1, prompt_tokens=0, drafted=True, depth=100, seconds=1.0)
        watch.observe(decoding=0, prompt_tokens=9, drafted=False, depth=100, seconds=1.0)
    watch.observe(decoding=0, prompt_tokens=500, drafted=False, depth=0, seconds=1.0)
    assert (watch.figures.decode, watch.figures.prompt) == pytest.approx((125, 500))
    assert not watch.figures.reason


def test_the_prediction_is_for_the_measured_depth() -> None:
    asked: list[int] = []

    def predict(depth: int) -> PredictedSeconds:
        asked.append(depth)
        return PredictedSeconds(0.01, 0.001)

    watch = SpeedWatch(predict, ())
    _decode(watch, 0.01)
    assert watch.figures == watch.figures
    assert asked == [256]


@pytest.mark.parametrize("seconds", [0.005, 0.02])
def test_a_large_difference_has_its_reason(seconds: float) -> None:
    watch = _watch(doubts=("the link is assumed", "another doubt"))
    _decode(watch, seconds)
    assert watch.figures.reason == "the link is assumed"
    watch = _watch()
    _decode(watch, seconds)
    assert "other programs" in watch.figures.reason


@pytest.mark.parametrize(("seconds", "level"), [(0.0101, "info"), (0.02, "warning")])
def test_it_is_logged_once(seconds: float, level: str) -> None:
    watch = _watch()
    with structlog.testing.capture_logs() as lines:
        _decode(watch, seconds, 200)
    (line,) = lines
    assert line["log_level"] == level
    assert line["predicted"] == "100.0 tokens/s"
    assert ("reason" in line) == (level == "warning")
