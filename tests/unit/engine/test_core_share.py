"""How an engine takes its part of the cores, and gives it back."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator

import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.core_share import CoreShare
from tailrace.engine.loop import EngineLoop, Published
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams
from tailrace.prompt_text import PromptText
from tailrace.protocol import Heartbeat, Step, Submit
from tailrace.shared_memory.cores_page import ANY_CORES, CoresPage
from tailrace.shared_memory.memory_file import create_page


class Engine:
    """An engine's part, and the parts that its backend was told."""

    def __init__(self, page: CoresPage, number: int) -> None:
        self.parts: list[tuple[int, int]] = []
        self.backend = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
        self.backend.share_cores = lambda place, count: self.parts.append((place, count))  # type: ignore[method-assign]  # Records.
        self.share = CoreShare(page, number, ANY_CORES, [self.backend])


@pytest.fixture
def page() -> Iterator[CoresPage]:
    fd = create_page()
    page = CoresPage(fd)
    os.close(fd)
    yield page
    page.close()


def test_an_engine_alone_is_told_nothing(page: CoresPage) -> None:
    engine = Engine(page, 1)
    for step in range(5):
        engine.share.before_step(step * 0.01)
    engine.share.end_work()
    assert engine.parts == []


def test_engines_that_compute_divide_the_cores_at_once_and_an_engine_alone_has_them_soon(page: CoresPage) -> None:
    one, two = Engine(page, 1), Engine(page, 2)
    one.share.before_step(0.0)
    two.share.before_step(0.0)
    one.share.before_step(0.001)
    assert (one.parts, two.parts) == ([(0, 2)], [(1, 2)])
    one.share.end_work()
    two.share.before_step(0.002)
    assert two.parts == [(1, 2)], "a pause between two steps of the other one changes nothing"
    one.share.before_step(0.003)
    two.share.before_step(0.030)
    two.share.before_step(0.040)
    assert two.parts == [(1, 2)]
    one.share.end_work()
    two.share.before_step(0.050)
    two.share.before_step(0.075)
    assert two.parts == [(1, 2), (0, 1)]


def test_an_engine_that_was_killed_has_no_part(page: CoresPage) -> None:
    one, two = Engine(page, 1), Engine(page, 2)
    one.share.before_step(0.0)
    two.share.before_step(0.0)
    page.show(1, 0)  # As the supervisor does.
    two.share.before_step(1.0)
    two.share.before_step(2.0)
    assert two.parts[-1] == (0, 1)


def test_the_loop_shows_its_work_and_its_end(page: CoresPage) -> None:
    engine = Engine(page, 1)
    loop = EngineLoop(engine.backend, prefill_chunk=64, step_seconds=1.0, core_share=engine.share)
    sequence = prepare_sequence(
        engine.backend, Submit(id=1, prompt=PromptText("<say>abc</say>"), params=GenerationParams())
    )
    assert isinstance(sequence, Sequence)
    loop.inbox.put(sequence)
    shown: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()

    def publish(message: Published) -> None:
        # Engine 2 would be the second one as long as this one computes.
        page.show(2, ANY_CORES)
        _, count = page.position(2, ANY_CORES)
        page.show(2, 0)
        if isinstance(message, Step):
            shown.put(("step", count))
        elif isinstance(message, Heartbeat) and not message.running:
            shown.put(("idle", count))
            loop.inbox.put(None)

    loop.run(publish)
    seen = [shown.get() for _ in range(shown.qsize())]
    assert ("step", 2) in seen
    assert ("step", 1) not in seen
    assert seen[-1] == ("idle", 1)
