"""Six models behind one port that don't fit into memory together: nothing fails, and few models are swapped."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from fault_figures import Record
from fewest_loads import Wanted, fewest_loads
from memory_group import MemoryGroup, memory_group
from observed_requests import DIALECTS, Outcome, problems, send
from openai_wire import metric
from servers import ServerProcess, serving
from tailrace.models.model_reference import locate_model

MODELS = [f"m{number}" for number in range(1, 7)]
CLIENTS = 8
REQUESTS = 500
LIMIT = 2_000_000_000
#: Loads ÷ those of a schedule that knows the future and begins no request later.
MAX_RATIO = 1.5


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file with six models, each a file of its own: the kernel can't share their pages."""
    source = locate_model("smollm2-135m").path
    lines = []
    for name in MODELS:
        shutil.copyfile(source, tmp_path / f"{name}.gguf")
        lines += [f"[models.{name}]", f'path = "{tmp_path / name}.gguf"', "ctx = 1024"]
    file = tmp_path / "config.toml"
    file.write_text("\n".join(lines))
    return file


async def client(port: int, number: int, count: int) -> list[tuple[str, Outcome]]:
    """A client that asks one model for a while, and then another: a conversation, or an agent's task."""
    rng = random.Random(number)
    found: list[tuple[str, Outcome]] = []
    model = rng.choice(MODELS)
    for turn in range(count):
        if rng.random() < 0.2:
            model = rng.choice(MODELS)
        dialect = DIALECTS[rng.randrange(len(DIALECTS))]
        outcome = await send(
            port,
            dialect,
            f"Client {number}, turn {turn}: tell me more.",
            rng.randrange(8, 33),
            stream=rng.random() < 0.7,
            fields={"model": model},
            hung_seconds=300.0,
        )
        found.append((model, outcome))
        await asyncio.sleep(rng.random() * 0.3)
    return found


def loads(server: ServerProcess) -> float:
    return metric(server.port, "tailrace:model_loads_total")


def test_six_models_in_two_gigabytes(settings: Path, record: Record) -> None:
    with memory_group(LIMIT) as group:
        _serve_all(group, settings, record)


def _serve_all(group: MemoryGroup, settings: Path, record: Record) -> None:
    # No keep-alive comes before the first token, so that is when a request began.
    arguments = ("--config", str(settings), "--keepalive-seconds", "600")
    # States of conversations go to the disk at each swap, as by default.
    environment = {"TAILRACE_KEEP_DISK_MB": "-1"}
    with serving(*arguments, environment=environment, prefix=group.prefix) as server:
        most_loaded = 0

        async def run() -> list[list[tuple[str, Outcome]]]:
            counts = [REQUESTS // CLIENTS + (number < REQUESTS % CLIENTS) for number in range(CLIENTS)]
            clients = asyncio.gather(*(client(server.port, number, count) for number, count in enumerate(counts)))
            watch = asyncio.create_task(watch_loaded())
            try:
                return await clients
            finally:
                watch.cancel()

        async def watch_loaded() -> None:
            nonlocal most_loaded
            while True:
                loaded = await asyncio.to_thread(metric, server.port, "tailrace:model_loaded")
                most_loaded = max(most_loaded, round(loaded))
                await asyncio.sleep(1.0)

        outcomes = [each for found in asyncio.run(run()) for each in found]
        assert len(outcomes) == REQUESTS
        assert problems([outcome for _, outcome in outcomes]) == []
        assert [outcome for _, outcome in outcomes if not outcome.accepted or outcome.failed] == []
        assert group.oom_kills == 0
        wanted = [Wanted(outcome.sent, outcome.first or outcome.ended, model) for model, outcome in outcomes]
        begun = min(each.arrival for each in wanted)
        wanted = [Wanted(each.arrival - begun, each.latest - begun, each.model) for each in wanted]
        swap = metric(server.port, "tailrace:model_load_seconds_total") / loads(server)
        fewest = fewest_loads(wanted, max(1, most_loaded), swap)
        record("memory, of the limit", group.peak / LIMIT, 1.0, "x")
        record("loads, of the fewest", loads(server) / fewest, MAX_RATIO, "x")
        record("loads", loads(server), REQUESTS, "")
        record("longest wait", max(each.latest - each.arrival for each in wanted), 120.0, "s")
