"""Followers of a pull: what each of them gets, however late it comes and however slowly it reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tailrace.errors import FetchFailed, ModelError, PullFailed, TooManyRequests
from tailrace.models.fetch import FetchStopped
from tailrace.models.pulls.progress import OnProgress, Progress, Pulled, Stage
from tailrace.models.reference import OllamaReference, Reference
from tailrace.server.dialects.ollama.pull import MAX_PULLS, Pulls, Status
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings

PATIENCE = 30.0
REFERENCE = OllamaReference(model="tiny")
SPEC = ModelSpec(name="tiny", path="/tiny.gguf", settings=Settings())


class Scripted:
    """A pull that reports what the test gives it, and ends as the test says. It also is the server that serves it."""

    def __init__(self) -> None:
        self.pulls = Pulls(self, self.pull)
        self.started = 0
        self.served: list[ModelSpec] = []
        self.steps: list[Progress | Exception] = []
        self.go_on = threading.Event()
        self.stopped = threading.Event()

    def pull(self, reference: Reference, on_progress: OnProgress, stopping: threading.Event) -> Pulled:
        self.started += 1
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            on_progress(step)
        while not self.go_on.wait(0.005):
            if stopping.is_set():
                self.stopped.set()
                raise FetchStopped
        return Pulled(path="/tiny.gguf", bytes=3, present=False)

    def find(self, reference: Reference) -> ModelSpec | None:
        return SPEC

    def serve(self, spec: ModelSpec) -> None:
        self.served.append(spec)

    def follow(self, keepalive_seconds: float = PATIENCE) -> AsyncIterator[Status]:
        return self.pulls.follow(REFERENCE, keepalive_seconds)


def progress(done: int, digest: str = "a" * 64, stage: Stage = "download") -> Progress:
    return Progress(stage=stage, file="model", digest=f"sha256:{digest}", done=done, total=100)


async def all_of(statuses: AsyncIterator[Status]) -> list[Status]:
    return [status async for status in statuses]


def words(statuses: list[Status]) -> list[str]:
    return [str(status["status"]) for status in statuses]


def test_a_late_and_slow_follower_misses_progress_and_no_other_status() -> None:
    async def check() -> None:
        scripted = Scripted()
        scripted.steps = [progress(done) for done in range(100)]
        scripted.steps += [progress(done, "b" * 64) for done in range(100)] + [Progress(stage="write")]
        first = scripted.follow()
        got = [await anext(first)]
        while got[-1]["status"] != "writing manifest":
            got.append(await asyncio.wait_for(anext(first), PATIENCE))
        late = asyncio.ensure_future(all_of(scripted.follow()))
        await asyncio.sleep(0)
        scripted.go_on.set()
        expected = ["pulling manifest", "pulling " + "a" * 12, "pulling " + "b" * 12, "verifying sha256 digest"]
        expected += ["writing manifest", "success"]
        told = await asyncio.wait_for(late, PATIENCE)
        assert words(told) == expected
        assert [status.get("completed") for status in told[1:3]] == [99, 99]
        got += await all_of(first)
        assert list(dict.fromkeys(words(got))) == expected
        assert scripted.started == 1

    asyncio.run(check())


def test_the_model_is_served_before_a_client_hears_of_it() -> None:
    async def check() -> None:
        scripted = Scripted()
        scripted.go_on.set()
        async for status in scripted.follow():
            if status["status"] == "success":
                assert scripted.served == [SPEC]
        assert scripted.served == [SPEC]

    asyncio.run(check())


def test_silence_is_broken_by_the_last_status() -> None:
    async def check() -> None:
        scripted = Scripted()
        statuses = scripted.follow(0.01)
        assert [await anext(statuses) for _ in range(3)] == [{"status": "pulling manifest"}] * 3
        scripted.go_on.set()
        assert (await all_of(statuses))[-1] == {"status": "success"}

    asyncio.run(check())


def test_the_last_follower_that_leaves_stops_the_pull_and_the_next_one_begins_another() -> None:
    async def check() -> None:
        scripted = Scripted()
        first, second = scripted.follow(), scripted.follow()
        await anext(first)
        await anext(second)
        await first.aclose()  # type: ignore[attr-defined]
        assert not scripted.stopped.is_set()
        await second.aclose()  # type: ignore[attr-defined]
        third = asyncio.ensure_future(all_of(scripted.follow()))
        assert await asyncio.to_thread(scripted.stopped.wait, PATIENCE)
        scripted.go_on.set()
        assert (await asyncio.wait_for(third, PATIENCE))[-1] == {"status": "success"}
        assert scripted.started == 2

    asyncio.run(check())


def test_an_iterator_that_is_never_read_begins_nothing() -> None:
    async def check() -> None:
        scripted = Scripted()
        for _ in range(MAX_PULLS + 1):
            await scripted.follow().aclose()  # type: ignore[attr-defined]
        assert scripted.started == 0

    asyncio.run(check())


def test_the_number_of_pulls_is_bounded() -> None:
    async def check() -> None:
        scripted = Scripted()
        running = [scripted.pulls.follow(OllamaReference(model=f"m{n}"), PATIENCE) for n in range(MAX_PULLS)]
        for statuses in running:
            await anext(statuses)
        with pytest.raises(TooManyRequests) as caught:
            scripted.follow()
        assert caught.value.retry_after
        scripted.go_on.set()
        for statuses in running:
            await all_of(statuses)
        assert (await all_of(scripted.follow()))[-1] == {"status": "success"}

    asyncio.run(check())


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (PullFailed("accept the licence", reason="denied"), "accept the licence"),
        (PullFailed("10.0.0.7 can't be reached", reason="network"), "the server's log says why"),
        (PullFailed("/secret/folder is full", reason="disk"), "the server's log says why"),
        (ModelError("pip says 10.0.0.7"), "the server's log says why"),
        (ZeroDivisionError("a defect"), "the server's log has the details"),
    ],
)
def test_what_clients_hear_of_a_failure(failure: Exception, told: str) -> None:
    async def check() -> None:
        scripted = Scripted()
        scripted.steps = [progress(1), failure]
        with pytest.raises(FetchFailed, match=told) as caught:
            await all_of(scripted.follow())
        assert "10.0.0.7" not in caught.value.message
        assert "/secret" not in caught.value.message
        assert scripted.served == []

    asyncio.run(check())


def test_all_pulls_stop_with_the_server() -> None:
    async def check() -> None:
        scripted = Scripted()
        statuses = scripted.follow()
        await anext(statuses)
        await asyncio.to_thread(scripted.pulls.stop)
        assert scripted.stopped.is_set()
        with pytest.raises(FetchFailed):
            await all_of(statuses)

    asyncio.run(check())
