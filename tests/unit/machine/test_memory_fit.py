"""What fits into memory, what is reduced, and what is refused with its numbers."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.errors import ConfigurationError
from tailrace.machine.memory_fit import Memory, MemoryDemand, fit_to_memory
from tailrace.settings import Settings

GB = 10**9
#: As an 8B model in four bits: 131,072 tokens of KV take 17.2 GB.
MODEL = MemoryDemand(weights=5 * GB, buffers=GB // 2, bytes_per_token=131_072, context=131_072)


def memory(total: float, available: float | None = None) -> Memory:
    return Memory(total=int(total * GB), available=int((total if available is None else available) * GB))


def test_a_model_with_room_is_left_as_it_is() -> None:
    settings = Settings()
    assert fit_to_memory(MODEL, settings, memory(64, 50)) == (settings, ())


def test_a_context_that_was_not_set_is_reduced_to_what_fits() -> None:
    settings, (warning,) = fit_to_memory(MODEL, Settings(), memory(16, 12))
    # 0.9 of the 6.5 GB that weights and buffers leave.
    assert settings.ctx == int(0.9 * 6.5 * GB) // 131_072 // 256 * 256
    assert f"{settings.ctx} tokens, not the model's 131072" in warning
    assert "--ctx" in warning


@pytest.mark.parametrize(
    ("setting", "value"), [("ctx", 131_072), ("kv_tokens", 131_072), ("ctx", 1 << 24), ("kv_tokens", 1 << 24)]
)
def test_a_context_that_was_set_and_can_not_fit_is_refused(setting: str, value: int) -> None:
    settings = msgspec.convert({setting: value}, Settings)
    with pytest.raises(ConfigurationError) as caught:
        fit_to_memory(MODEL, settings, memory(16, 12))
    said = str(caught.value)
    assert said.startswith(f"{setting} is {value}, whose KV cache takes ")
    limit = int(said.rpartition(" to ")[2].split()[0])
    fitting = msgspec.convert({setting: limit}, Settings)
    assert fit_to_memory(MODEL, fitting, memory(16, 12))[0] == fitting, "what the error advises is accepted"


def test_a_context_that_fits_beside_dropped_pages_is_a_warning() -> None:
    settings = Settings(ctx=32_768)
    found, (warning,) = fit_to_memory(MODEL, settings, memory(16, 8))
    assert found == settings
    assert "memory is tight" in warning


@pytest.mark.parametrize(("total", "available"), [(4, 4), (5.4, 5.4), (64, 0.4)])
def test_a_model_that_can_not_fit_is_refused_with_the_numbers(total: float, available: float) -> None:
    with pytest.raises(ConfigurationError, match=r"doesn't fit into memory: it takes .*weights 5\.0 GB"):
        fit_to_memory(MODEL, Settings(), memory(total, available))


def test_the_smallest_context_is_tried_before_a_refusal() -> None:
    settings, warnings = fit_to_memory(MODEL, Settings(), memory(8, 3))
    assert settings.ctx == 2048
    assert len(warnings) == 2
    with pytest.raises(ConfigurationError, match="no room for a context of 2048"):
        fit_to_memory(MODEL, Settings(), memory(8, 0.7))


def test_each_private_copy_counts() -> None:
    settings = Settings(ctx=4096)
    fit_to_memory(MODEL, settings, memory(16), private_copies=2)
    with pytest.raises(ConfigurationError, match=r"weights 15\.0 GB"):
        fit_to_memory(MODEL, settings, memory(16), private_copies=3)


def test_an_unknown_size_of_a_token_is_not_judged() -> None:
    demand = msgspec.structs.replace(MODEL, bytes_per_token=0)
    settings = Settings(ctx=1 << 24)
    assert fit_to_memory(demand, settings, memory(16)) == (settings, ())


def test_a_small_context_is_not_stretched() -> None:
    demand = msgspec.structs.replace(MODEL, context=512)
    assert fit_to_memory(demand, Settings(), memory(16)) == (Settings(), ())
