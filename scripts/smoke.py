"""Exercises the compiled llama.cpp: ``smoke.py`` loads it, ``smoke.py MODEL`` decodes with a model of the local store.

``setup.py`` runs this as a child, because a llama.cpp compiled wrongly for its CPU doesn't raise: it kills the process.
The prompt is long enough to reach the matrix kernels (AMX among them) that single tokens don't use.
"""

from __future__ import annotations

import sys

import llama_cpp

from tailrace.errors import ModelError
from tailrace.models.model_reference import locate_model

#: The exit status without the model. ``setup.py`` knows it: llama.cpp wasn't tested then.
NO_MODEL = 3
PROMPT = "The water that has turned the wheel runs on through the tailrace, back into the river it came from. " * 8


def decode(name: str) -> None:
    """Read a prompt and write a few tokens, on a GPU that the build can use. Raises ModelError without the model."""
    model = llama_cpp.Llama(str(locate_model(name).path), n_ctx=512, n_batch=256, n_gpu_layers=-1, verbose=False)
    reply = model.create_completion(PROMPT, max_tokens=8, temperature=0.0)
    written = reply["usage"]["completion_tokens"]
    if written < 1:
        raise SystemExit("the model wrote nothing")


if __name__ == "__main__":
    llama_cpp.llama_backend_init()
    if len(sys.argv) > 1:
        try:
            decode(sys.argv[1])
        except ModelError as error:
            print(error, file=sys.stderr)
            sys.exit(NO_MODEL)
