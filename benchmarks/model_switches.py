"""Switches of models: seconds from a request to its first token when its model has to take another's place.

``python -m benchmarks.model_switches [--rounds N] [--pause S]``. Two copies of the starter model are served with memory
for one. A conversation goes on in each, in turns, so each request swaps the models; its prompt tokens that were read
again are counted. ``--pause`` is the time between two requests, in which the next engine's process gets ready.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tailrace.models.model_reference import locate_model
from tailrace.serving.memory_share import load_bytes
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import STARTER_MODEL, Settings

#: What both models are served with.
_SETTINGS = Settings(ctx=2048, kv_tokens=4096, keep_mb=32)
_LISTENS = re.compile(r"tailrace listens on (\S+)")


class Conversation:
    """One model's conversation."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._messages: list[dict[str, str]] = []
        self._known = 0  #: tokens of the last prompt and reply

    def ask(self, client: httpx.Client, text: str) -> tuple[float, int]:
        """Seconds to the first token, and the tokens that were read again though they were known."""
        self._messages.append({"role": "user", "content": text})
        body: dict[str, Any] = {"model": self._model, "messages": self._messages, "stream": True, "max_tokens": 24}
        body["stream_options"] = {"include_usage": True}
        usage: dict[str, Any] = {}
        sent, first, reply = time.monotonic(), 0.0, ""
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                usage = chunk.get("usage") or usage
                if chunk["choices"] and (piece := chunk["choices"][0]["delta"].get("content")):
                    first, reply = first or time.monotonic(), reply + piece
        self._messages.append({"role": "assistant", "content": reply})
        again = self._known - usage["prompt_tokens_details"]["cached_tokens"]
        # A reply's last token ends it, and is read with the next prompt.
        self._known = usage["prompt_tokens"] + usage["completion_tokens"] - 1
        return first - sent, max(0, again)


def main() -> None:
    """Swap the models ``rounds`` times, and print what the switches took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pause", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        source = locate_model(STARTER_MODEL).path
        paths = [Path(folder) / f"{name}.gguf" for name in ("one", "two")]
        for path in paths:
            shutil.copyfile(source, path)
        command = [str(Path(sys.executable).with_name("tailrace")), "serve", *map(str, paths), "--port", "0"]
        command += [
            "--ctx",
            "2048",
            "--kv-tokens",
            "4096",
            "--keep-mb",
            "32",
            "--keep-disk-mb",
            "256",
            "--no-access-log",
        ]
        one = load_bytes(ModelSpec(name="one", path=str(source), settings=_SETTINGS), 2**33)
        command += ["--models-mb", str(one * 3 // 2_000_000)]
        server = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
        stack.callback(server.terminate)
        assert server.stdout is not None
        url = next(found[1] for line in server.stdout if (found := _LISTENS.search(line)))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=120.0, trust_env=False))
        conversations = [Conversation(path.stem) for path in paths]
        for conversation in conversations:
            conversation.ask(client, "Tell me a story about a river, a mill and a turbine. " * 8)
        waits: list[float] = []
        again: list[int] = []
        for number in range(options.rounds):
            time.sleep(options.pause)
            seconds, tokens = conversations[number % 2].ask(client, f"Go on, part {number}.")
            waits.append(seconds)
            again.append(tokens)
        loads = re.findall(r"^tailrace:model_loads_total\{.*\} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert sum(map(float, loads)) > options.rounds, "the models weren't swapped for each request"
    waits.sort()
    print(f"first token after a switch: median {statistics.median(waits):.2f} s, {waits[0]:.2f} to {waits[-1]:.2f} s")
    print(f"known tokens that were read again: {max(again)} at most")


if __name__ == "__main__":
    main()
