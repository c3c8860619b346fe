"""A turn of a pydantic-ai agent over chat completions: it calls its tool and answers. Prints what came as JSON."""

from __future__ import annotations

import json
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

base, key, model, prompt, printed = sys.argv[1:]
heard: list[str] = []
agent = Agent(
    OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{base}/v1", api_key=key)), instructions="Be brief."
)


@agent.tool_plain  # type: ignore[untyped-decorator]  # Its package isn't in the environment of the checks.
def shell(command: str) -> str:
    """Run a command."""
    heard.append(command)
    return printed


result = agent.run_sync(prompt)
print(json.dumps({"called": heard, "answer": result.output}))
