"""Engines that are killed while they save prefix states: what is on the disk stays whole."""

from __future__ import annotations

import queue
import random
import subprocess
import sys
import time
from pathlib import Path

from fault_figures import Record
from tailrace.engine.kv_cache.disk_tier import DiskOptions, DiskTier, Fetched

#: Bytes and tokens of a state, and states of a save.
_SIZE, _LENGTH, _STATES = 3_000_000, 200, 30
_LIMIT = 12 * _SIZE

#: Saves states of its own for each round. It prints a line when it begins.
_SAVE = f"""
import sys, time
from pathlib import Path
import numpy as np
from tailrace.engine.kv_cache.disk_tier import DiskOptions, DiskTier, Savable
folder, round = Path(sys.argv[1]), int(sys.argv[2])
tier = DiskTier(DiskOptions(folder, {_LIMIT}), lambda fetched: None)
tier.close()
def savable(number):
    first = 1_000_000 * (round + 1) + 1000 * number
    state = np.random.default_rng(first).integers(0, 256, {_SIZE}, np.uint8)
    return Savable(list(range(first, first + {_LENGTH})), {_SIZE}, lambda: state)
states = [savable(number) for number in range({_STATES})]
print("saving", flush=True)
tier.save(states, time.monotonic() + 60)
"""


def whole_states(folder: Path) -> int:
    """How many states a new engine finds; fails where one of them can't be read."""
    delivered: queue.SimpleQueue[Fetched] = queue.SimpleQueue()
    tier = DiskTier(DiskOptions(folder, _LIMIT), delivered.put)
    found = 0
    for path in sorted(folder.glob("*.kv")):
        tier.fetch(path.stem, found)
        assert delivered.get(timeout=60).state is not None, f"{path.name} isn't whole"
        found += 1
    tier.close()
    return found


def test_an_engine_is_killed_at_any_moment_of_a_save(tmp_path: Path, record: Record) -> None:
    source, counts = random.Random(7), []
    for attempt in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", _SAVE, str(tmp_path), str(attempt)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"saving\n"
            time.sleep(source.uniform(0, 0.15))  # The moment of the kill is what the test varies.
            process.kill()
        counts.append(whole_states(tmp_path))
        files = list(tmp_path.iterdir())
        assert all(path.suffix == ".kv" for path in files), "a part of a file was left"
        assert sum(path.stat().st_size for path in files) <= _LIMIT
    assert max(counts) > 1
    record("states on the disk after a kill, at most", max(counts), _LIMIT // _SIZE, "states")
