"""The prompts of a load."""

from __future__ import annotations

from tailrace.loadtest.load_profile import LoadProfile


def test_prompts_differ_between_streams_and_turns_and_are_the_same_again() -> None:
    load = LoadProfile(streams=3, prompt_tokens=40, output_tokens=8)
    prompts = [prompt for turn in (0, 1) for prompt in load.prompts(turn)]
    assert len(set(prompts)) == 6
    assert load.prompts(1) == prompts[3:]
