"""A turn of an openai-agents agent over Responses: it calls its tool and answers. Prints what came as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from agents import Agent, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from openai import AsyncOpenAI

base, key, model, prompt, printed = sys.argv[1:]
heard: list[str] = []


@function_tool  # type: ignore[untyped-decorator]  # Its package isn't in the environment of the checks.
def shell(command: str) -> str:
    """Run a command."""
    heard.append(command)
    return printed


async def main() -> None:
    """One turn, streamed."""
    set_tracing_disabled(True)
    set_default_openai_client(AsyncOpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0))
    agent = Agent(name="tester", instructions="Be brief.", model=model, tools=[shell])
    result = Runner.run_streamed(agent, prompt)
    async for _ in result.stream_events():
        pass
    print(json.dumps({"called": heard, "answer": result.final_output}))


asyncio.run(main())
