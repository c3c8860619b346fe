"""The program that tries one chat template: see ``template_trial``. The kernel ends it where that takes too much."""

from __future__ import annotations

import resource
import signal
import sys

import msgspec

from tailrace.chat.template import ChatTemplate
from tailrace.chat.template_trial import TemplateTrial, TrialResult
from tailrace.chat.thinking_kwargs import has_thinking_switch
from tailrace.errors import ModelError
from tailrace.own_process.address_space import limit_growth
from tailrace.own_process.parent_death import die_with_parent


def main() -> None:
    """Read the template, and write the result."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=TemplateTrial)
    limit_growth(trial.max_memory)
    signal.setitimer(signal.ITIMER_PROF, trial.cpu_seconds)
    sys.stdout.buffer.write(msgspec.json.encode(TrialResult(_defect(trial))))


def _defect(trial: TemplateTrial) -> str | None:
    try:
        template = ChatTemplate(
            trial.source,
            bos_token=trial.bos_token,
            eos_token=trial.eos_token,
            special_tokens=trial.special_tokens,
        )
        has_thinking_switch(template)
    except ModelError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
