"""The prompt for filling a gap: its parts' order, and what is left out where the context is too small."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.errors import NotSupported
from tailrace.protocol import ModelInfo
from tailrace.server.dialects.llama_server.piecewise_prompt import PieceTokenizer, TextPiece
from tailrace.server.dialects.llama_server.prompt import infill_prompt
from tailrace.server.dialects.llama_server.request_fields import ExtraContext, InfillRequest

MARKS = {"prefix": 1001, "suffix": 1002, "middle": 1003, "repository": 1004, "file": 1005}
START = 1000


class Bytes:
    """A tokenizer whose tokens are bytes."""

    async def tokenize(self, texts: Sequence[TextPiece], param: str) -> None:
        assert all(not text.special or text.text.startswith("M") for text in texts), "names of tokens are text"

    def tokens_of(self, text: TextPiece) -> list[int]:
        return list(text.text.encode())


def info(context: int, marks: dict[str, int], start: int | None = None) -> ModelInfo:
    known = FakeBackend(ctx=8192, parallel=1, kv_tokens=0, batch=16).info
    return msgspec.structs.replace(known, context=context, infill_tokens=marks, start_token=start)


def prompt(model: ModelInfo, limit: int | None = None, **fields: Any) -> list[int]:
    return asyncio.run(infill_prompt(InfillRequest(**fields), model, cast(PieceTokenizer, Bytes()), limit))


def codes(text: str) -> list[int]:
    return list(text.encode())


def test_the_order_of_the_parts() -> None:
    extra = [ExtraContext(text="E", filename="f.py"), ExtraContext(text="F")]
    fields: dict[str, Any] = {"input_prefix": "P", "input_suffix": "S", "input_extra": extra, "prompt": "M"}
    assert prompt(info(8192, MARKS, START), **fields) == [
        1004,
        *codes("myproject\n"),
        1005,
        *codes("f.py\nE"),
        1005,
        *codes("tmp\nF"),
        1005,
        *codes("filename\n"),
        START,
        1001,
        *codes("PM"),
        1002,
        *codes("S"),
        1003,
    ]
    few = {name: MARKS[name] for name in ("prefix", "suffix", "middle")}
    snippets = codes("\n\n--- snippet ---\n\nE\n\n--- snippet ---\n\nF")
    assert prompt(info(8192, few), **fields) == [*snippets, 1001, *codes("PM"), 1002, *codes("S"), 1003]


@pytest.mark.parametrize("context", [64, 512, 4096, 8192])
@pytest.mark.parametrize("limit", [None, 0, 16, 100_000])
def test_a_prompt_always_fits_and_keeps_the_nearest_text(context: int, limit: int | None) -> None:
    long = "".join(chr(97 + number % 26) for number in range(9000))
    extra = [ExtraContext(text=long + "!")]
    made = prompt(
        info(context, MARKS, START),
        limit,
        input_prefix=long + "<",
        input_suffix=">" + long,
        input_extra=extra,
        prompt="M",
    )
    assert len(made) < context
    before = made.index(1001)
    assert made[made.index(1002) - 2 : made.index(1002)] == codes("<M")
    after = made[made.index(1002) + 1 : -1]
    assert after == codes(">" + long)[: len(after)]
    assert len(after) > 3
    assert made.index(1002) - before > 2 * len(after), "three quarters are before the gap"
    if context == 8192:
        assert made[before - 1 - len(codes("filename\n")) - 2 : before - 1] == [*codes("!"), 1005, *codes("filename\n")]


def test_models_without_infill_tokens_are_refused() -> None:
    with pytest.raises(NotSupported, match="no token for middle"):
        prompt(info(64, {"prefix": 1, "suffix": 2}), input_prefix="", input_suffix="")
