"""Which kernels compute the parts of a model, for ``tailrace doctor MODEL``.

Another process loads the model and computes a few tokens. Products are listed as the loader assigns them, and other
operations as the kernels count them. The process that asks loads no llama.cpp.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.observe import logs
from tailrace.settings import Settings

#: Tokens of the trial's prompt.
_PROMPT = 32
#: Context of the trial: a small one takes little memory.
_CONTEXT = 512


class Products(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of one format whose products the same kernels compute."""

    part: str  #: dense or experts
    kernels: str
    format: str
    tensors: int
    bytes: int


class Operations(msgspec.Struct, frozen=True, kw_only=True):
    """How many operations of the trial the kernels have computed, and how many they have left to llama.cpp."""

    own: int
    upstream: int


class ModelParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one model."""

    products: list[Products]  #: the largest first; none where a GPU computes layers
    attention: Operations
    recurrent: dict[str, Operations]  #: by operation; only those that the model has
    cache_types: tuple[str, ...]  #: of keys and values
    predicts: bool  #: whether the model's prediction layer drafts


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    settings: Settings


def measure_parts(path: Path, settings: Settings) -> ModelParts:
    """Load the model at ``path`` in another process, and report its parts. Raises ModelError where that fails."""
    order = msgspec.json.encode(_Order(path=str(path), settings=settings))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tailrace.engine.model_parts"], input=order, capture_output=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise ModelError(f"{path} can't be loaded to look at its parts: {lines[-1]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=ModelParts)


def _measure(path: Path, settings: Settings) -> ModelParts:
    # Imported here, because the process that asks loads no llama.cpp.
    from gguf import GGMLQuantizationType

    from tailrace.engine.backends.llama.kernel_assignment import is_experts, tensor_bytes
    from tailrace.engine.kernels import loader
    from tailrace.engine.load import load_llama

    small = msgspec.structs.replace(settings, ctx=_CONTEXT, kv_tokens=_CONTEXT, parallel=1, keep_mb=0)
    backend = load_llama(path, small, shows_bar=False)
    if backend.info.generates:
        start = backend.start_token or 0
        backend.decode([start] * _PROMPT, list(range(_PROMPT)), [0] * _PROMPT, [_PROMPT - 1])
        backend.decode([start], [_PROMPT], [0], [0], 1)
    tensors: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    for tensor, kernels, _ in backend.assignments:
        part = "experts" if is_experts(tensor) else "dense"
        key = (part, kernels, str(GGMLQuantizationType(tensor.ggml_type).name))
        tensors[key] += 1
        sizes[key] += tensor_bytes(tensor)
    own, upstream = loader.attention_counts()
    return ModelParts(
        products=[
            Products(part=key[0], kernels=key[1], format=key[2], tensors=tensors[key], bytes=size)
            for key, size in sizes.most_common()
        ],
        attention=Operations(own=own, upstream=upstream),
        recurrent={
            name: Operations(own=mine, upstream=theirs)
            for name, (mine, theirs) in loader.recurrent_counts().items()
            if mine or theirs
        },
        cache_types=tuple(backend.cache_types),
        predicts=backend.prediction_context is not None,
    )


def main() -> None:
    """Read an order from standard input and write the parts as the last line of standard output."""
    logs.configure("doctor", level="error", form="console")
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)
    try:
        parts = _measure(Path(order.path), order.settings)
    except Exception as error:
        # Its message is shown, and not where it was raised.
        print(str(error) or type(error).__name__, file=sys.stderr)
        raise SystemExit(1) from error
    print(msgspec.json.encode(parts).decode(), flush=True)


if __name__ == "__main__":
    main()
