"""The messages between the processes: what their structs compute."""

from __future__ import annotations

import msgspec

from tailrace.protocol import EngineCounters


def test_every_counter_is_added() -> None:
    """A counter that is new is added as well: no list of names has to grow with the struct."""
    count = len(EngineCounters.__struct_fields__)
    one, other = EngineCounters(*range(count)), EngineCounters(*range(100, 100 + count))
    total = msgspec.structs.asdict(one + other)
    assert total.pop("longest_step_seconds") == other.longest_step_seconds, "a maximum isn't added"
    added = zip(msgspec.structs.asdict(one).items(), msgspec.structs.astuple(other), strict=True)
    assert total == {name: value + more for (name, value), more in added if name in total}
    assert msgspec.structs.astuple(one) == tuple(range(count)), "the sum is a struct of its own"
