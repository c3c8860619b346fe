"""A turn of llm with its plugin for Ollama: the model calls a function and answers. Prints what came as JSON."""

from __future__ import annotations

import json
import os
import sys

base, key, model, prompt, printed = sys.argv[1:]
os.environ["OLLAMA_HOST"] = base

import llm  # noqa: E402  # The plugin reads the address when it is imported.

heard: list[str] = []


def shell(command: str) -> str:
    """Run a command."""
    heard.append(command)
    return printed


chain = llm.get_model(f"ollama/{model}:latest").conversation(tools=[shell]).chain(prompt)
answer = chain.text()  # The tool is called while it is read.
print(json.dumps({"called": heard, "answer": answer}))
