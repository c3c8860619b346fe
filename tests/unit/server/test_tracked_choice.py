"""Tracked choices: their events, and the limits of lines and time that end them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.errors import RequestError
from tailrace.protocol import Accepted, Finished, Progress, Refused, TokenLogprobs
from tailrace.server.choice import Choice
from tailrace.server.events import Event, Finish, PromptProgress, TextDelta, Timed
from tailrace.server.timings import make_timings
from tailrace.server.tracked_choice import TrackedChoice, TrackingOptions

VOCABULARY = PieceTable([bytes([value]) for value in range(256)])


class Owner:
    """Records its choice's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.counted: int | None = None
        self.emit = self.events.append

    @property
    def has_tokens(self) -> bool:
        return False

    def on_choice_answer(self, choice: Choice, answer: Accepted | Refused) -> None: ...
    def on_choice_prefilled(self, choice: Choice, cached_tokens: int, prompt_seconds: float) -> None: ...
    def on_choice_begun(self, computed: int) -> None: ...
    def on_first_token(self) -> None: ...

    def on_choice_finished(self, choice: Choice, reason: str, completion_tokens: int) -> None:
        self.counted = completion_tokens

    def on_failed(self, error: RequestError) -> None:
        raise error

    def on_defect(self, error: Exception) -> None:
        raise error

    @property
    def texts(self) -> list[TextDelta]:
        return [event for event in self.events if isinstance(event, TextDelta)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.texts)

    @property
    def finish(self) -> Finish | None:
        return next((event for event in self.events if isinstance(event, Finish)), None)


def begin(tracking: TrackingOptions, stops: Sequence[str] = ()) -> tuple[TrackedChoice, Owner]:
    owner = Owner()
    pipeline = ReplyPipeline(VOCABULARY, stops, None)
    choice = TrackedChoice(owner, 0, VOCABULARY, pipeline, tracking, max_tool_calls=2**31, inline_reasoning=False)
    choice.on_answer(Accepted(1, 7))
    choice.on_prefilled(3, 0.5)
    return choice, owner


def say(choice: TrackedChoice, owner: Owner, text: str) -> None:
    """Feed it byte by byte until the choice is closed, as the engine would."""
    for value in text.encode():
        if owner.counted is None:
            choice.on_token(value, None)
    if owner.counted is None:
        choice.on_finished(Finished(1, "stop", len(text.encode()) + 1))


def test_each_text_carries_the_tokens_that_it_was_made_of() -> None:
    choice, owner = begin(TrackingOptions(tokens=True))
    say(choice, owner, "aé!")
    told = [(event.text, [token for token, _ in event.tokens or ()]) for event in owner.texts]
    assert told == [("a", [97]), ("é", [0xC3, 0xA9]), ("!", [33])]


def test_tokens_of_a_stop_string_and_of_an_unfinished_character_are_carried_at_the_end() -> None:
    choice, owner = begin(TrackingOptions(tokens=True), stops=["END"])
    say(choice, owner, "xEND")
    assert owner.text == "x"
    assert [token for event in owner.texts for token, _ in event.tokens or ()] == list(b"xEND")
    assert owner.finish == Finish(0, "stop", "END")
    choice, owner = begin(TrackingOptions(tokens=True))
    choice.on_token(0xC3, None)
    choice.on_finished(Finished(1, "length", 1))
    assert [(event.text, event.tokens) for event in owner.texts] == [("", [(0xC3, None)])]


def test_an_event_of_many_probabilities_is_cut_to_its_size() -> None:
    choice, owner = begin(TrackingOptions(tokens=True), stops=["abcdefgh!"])
    found = TokenLogprobs(-0.5, [(value, -1.0) for value in range(200)])
    for value in b"abcdefghi":
        choice.on_token(value, found)
    choice.on_finished(Finished(1, "length", 9))
    assert owner.text == "abcdefghi"
    assert len(owner.texts) > 1
    assert [token for event in owner.texts for token, _ in event.tokens or ()] == list(b"abcdefghi")
    assert all(len(event.tokens or ()) <= 3 for event in owner.texts)


@pytest.mark.parametrize(
    ("reply", "indent", "kept"),
    [
        ("a\n    b\n  c\n", 4, "a\n    b\n  "),
        ("a\n    b\n\tc", 1, "a\n    b\n\tc"),
        ("a\n\n    b", 4, "a\n"),
        ("  a\nb", 1, "  a\n"),
        ("no line", 4, "no line"),
        ("a\nb", 0, "a\nb"),
    ],
)
def test_a_line_that_is_indented_too_little_ends_the_reply(reply: str, indent: int, kept: str) -> None:
    for tokens in (True, False):
        choice, owner = begin(TrackingOptions(tokens=tokens, indent=indent))
        say(choice, owner, reply)
        assert owner.text == kept
        assert owner.finish is not None
        assert owner.finish.reason == ("length" if kept != reply else "stop")


def test_a_time_limit_ends_the_reply_at_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tailrace.server.tracked_choice.time.monotonic", lambda: now)
    choice, owner = begin(TrackingOptions(tokens=True, milliseconds=50))
    for value in b"a\nb":
        choice.on_token(value, None)
    now += 0.051
    choice.on_token(99, None)
    assert owner.events[-1] == TextDelta(0, "c", None, [(99, None)]), "it ends only at a line break"
    choice.on_token(10, None)
    assert owner.text == "a\nbc\n"
    assert owner.finish == Finish(0, "length", None)
    assert owner.counted == 5
    assert choice.timings.predicted_ms == pytest.approx(51)
    assert choice.timings.predicted_per_second == pytest.approx(1000 / 51 * 4)


def test_a_silent_choice_emits_no_text() -> None:
    choice, owner = begin(TrackingOptions(silent=True))
    choice.on_token(97, None)
    choice.on_finished(Finished(1, "length", 1))
    assert not owner.texts
    assert owner.counted == 0
    assert owner.finish == Finish(0, "length", None)
    assert choice.timings == make_timings(cached=3, prompt=4, prompt_seconds=0.5, generated=0, seconds=0.0)


def test_progress_is_emitted_and_part_of_the_timings() -> None:
    choice, owner = begin(TrackingOptions(progress=True))
    choice.on_progress(Progress(1, 7, 3, 3, 0.0))
    assert (choice.timings.prompt_n, choice.timings.prompt_ms) == (0, 0.0)
    choice.on_progress(Progress(1, 7, 3, 5, 0.25))
    assert (choice.timings.prompt_n, choice.timings.prompt_ms) == (2, 250.0)
    assert owner.events == [PromptProgress(0, 7, 3, 3, 0.0), PromptProgress(0, 7, 3, 5, 0.25)]


def test_events_come_with_the_timings_of_their_moment() -> None:
    choice, owner = begin(TrackingOptions(tokens=True, timings=True))
    say(choice, owner, "ab")
    told = [event for event in owner.events if isinstance(event, Timed)]
    assert len(told) == len(owner.events) == 3
    assert [event.timings.predicted_n for event in told] == [1, 2, 3]
    assert [type(event.event) for event in told] == [TextDelta, TextDelta, Finish]


def test_timings_are_finite() -> None:
    one = make_timings(cached=0, prompt=3, prompt_seconds=0.1, generated=1, seconds=0.0)
    assert (one.predicted_per_token_ms, one.predicted_per_second) == (0.0, 0.0)
    assert one.prompt_per_second == pytest.approx(30)
    none = make_timings(cached=4, prompt=0, prompt_seconds=0.0, generated=0, seconds=0.0)
    assert (none.prompt_per_token_ms, none.prompt_per_second) == (0.0, 0.0)
