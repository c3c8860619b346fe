"""The engine loop on the fake backend: what is published, and how generations end."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context_backend import ContextBackend
from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.engine.backends.fake import END, FakeBackend, Memory
from tailrace.engine.loop import EngineLoop, Published
from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.prompt_text import PromptText
from tailrace.protocol import Finished, Heartbeat, Step, Submit


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)


def _submit(identity: int, prompt: str | list[int], **options: Any) -> Submit:
    given = PromptText(prompt) if isinstance(prompt, str) else prompt
    return Submit(id=identity, prompt=given, params=GenerationParams(sampling=Sampling(temperature=0.0), **options))


class Runner:
    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0)
        self.steps: list[Step] = []

    def ask(self, submit: Submit) -> None:
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        self.loop.inbox.put(sequence)

    def step(self) -> None:
        self.loop.take()
        if (step := self.loop.step()) is not None:
            self.steps.append(step)

    def finish(self) -> None:
        while self.loop.has_work:
            self.step()

    def said(self, identity: int) -> bytes:
        return bytes(
            token for step in self.steps for i, token in zip(step.ids, step.tokens, strict=True) if i == identity
        )

    def finished(self, identity: int) -> list[Finished]:
        return [finished for step in self.steps for finished in step.finished if finished.id == identity]


def test_each_sequence_says_its_script_and_finishes_once(backend: FakeBackend) -> None:
    runner = Runner(backend)
    for identity in range(5):
        runner.ask(_submit(identity, f"<say>reply {identity}</say>"))
    runner.finish()
    for identity in range(5):
        assert runner.said(identity) == f"reply {identity}".encode()
        (finished,) = runner.finished(identity)
        assert (finished.reason, finished.completion_tokens) == ("stop", len("reply 0") + 1)


def test_one_step_carries_every_running_sequence_s_token(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, "<say>aaaa</say>"))
    runner.ask(_submit(2, "<say>bbbb</say>"))
    runner.finish()
    assert any(sorted(step.ids) == [1, 2] for step in runner.steps)


def test_max_tokens_and_stop_tokens_end_a_reply(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, "<say>abcdef</say>", max_tokens=3))
    runner.ask(_submit(2, "<say>abcdef</say>", stop_tokens=(ord("d"),)))
    runner.finish()
    assert (runner.said(1), runner.finished(1)[0].reason) == (b"abc", "length")
    assert (runner.said(2), runner.finished(2)[0].reason) == (b"abc", "stop")


def test_ignore_eos_goes_on_to_the_limit(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, "<say>ab</say>", max_tokens=5, ignore_eos=True))
    runner.finish()
    tokens = [token for step in runner.steps for token in step.tokens]
    assert tokens == [ord("a"), ord("b"), END, END, END]


def test_a_cancelled_sequence_frees_its_slot_for_the_next_step(backend: FakeBackend) -> None:
    runner = Runner(backend)
    for identity in (1, 2, 3):
        runner.ask(_submit(identity, f"<say>{'x' * 100}</say>"))
    for _ in range(5):
        runner.step()
    assert runner.loop.heartbeat().waiting == 1
    runner.loop.inbox.put(1)
    runner.step()
    assert (runner.loop.heartbeat().running, runner.loop.heartbeat().waiting) == (2, 0)
    assert 1 not in runner.steps[-1].ids
    runner.loop.inbox.put(1)
    runner.loop.inbox.put(99)
    runner.finish()
    assert not runner.finished(1)
    assert runner.finished(3)


def test_a_waiting_sequence_can_be_cancelled(backend: FakeBackend) -> None:
    runner = Runner(backend)
    for identity in (1, 2, 3):
        runner.ask(_submit(identity, f"<say>{'x' * 20}</say>"))
    runner.step()
    runner.loop.inbox.put(3)
    runner.finish()
    assert not runner.said(3)


def test_the_parts_of_a_step_are_timed() -> None:
    """Their sum is the time of the steps: no part is counted twice, and none is left out."""
    runner = Runner(FakeBackend(ctx=256, parallel=4, kv_tokens=0, batch=64, step_seconds=0.02))
    runner.ask(_submit(1, "<say>abcd</say>"))
    runner.loop.take()
    begun = time.perf_counter()
    while runner.loop.has_work:
        runner.loop.step()
    passed = time.perf_counter() - begun
    counters = runner.loop.heartbeat().counters
    assert counters.decode_seconds >= 0.02 * counters.steps
    for part in ("schedule_seconds", "mask_wait_seconds", "sample_seconds", "publish_seconds"):
        assert 0 < getattr(counters, part) < counters.decode_seconds
    assert counters.decode_seconds < counters.step_seconds <= passed
    assert 0.02 <= counters.longest_step_seconds <= counters.step_seconds


def test_batches_are_counted(backend: FakeBackend) -> None:
    runner = Runner(backend)
    prompts = [f"<say>{letter * 3}</say>" for letter in "ab"]
    for identity, prompt in enumerate(prompts):
        runner.ask(_submit(identity, prompt))
    runner.finish()
    counters = runner.loop.heartbeat().counters
    # A prompt is one step's batch, and gives the first token. Each further token, the end token too, is a batch.
    lengths = [1 + len(prompt) for prompt in prompts]  # With the start token.
    assert counters.batch_tokens == sum(lengths) + 2 * 3
    assert counters.batch_sequences == 2 * 4
    assert counters.decode_sequences == 2 * 3
    assert counters.kv_cells_read == sum(length + sum(length + n for n in (1, 2, 3)) for length in lengths)


def test_cancelled_sequences_are_counted(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, f"<say>{'x' * 20}</say>"))
    runner.step()
    runner.loop.inbox.put(1)
    runner.loop.inbox.put(1)
    runner.finish()
    assert runner.loop.heartbeat().counters.cancelled == 1


def test_a_step_is_published_before_it_is_accounted_for(backend: FakeBackend) -> None:
    runner = Runner(backend)
    loop = runner.loop
    runner.ask(_submit(1, "<say>ab</say>"))
    runner.ask(_submit(2, "<say>a<nan></say>"))
    published: list[tuple[Step, Heartbeat]] = []

    def publish(message: Published) -> None:
        if isinstance(message, Step):
            published.append((message, loop.heartbeat()))

    while loop.has_work:
        loop.take()
        step = loop.step(publish)
        assert step is published[-1][0]
        after = loop.heartbeat()
        assert (published[-1][1].counters.steps, after.counters.steps) == (len(published) - 1, len(published))
        assert after.kv_cells_used != published[-1][1].kv_cells_used
        ended = len(step.finished) + len(step.failed)
        assert published[-1][1].running - after.running == ended, "a sequence that has ended is removed after it"
    assert sum(len(step.finished) for step, _ in published) == 1
    assert sum(len(step.failed) for step, _ in published) == 1


def test_work_for_a_quiet_time_waits_until_nothing_has_run_for_a_while(backend: FakeBackend) -> None:
    runner = Runner(backend)
    events: list[str] = []
    runner.loop.when_quiet = lambda: events.append("quiet")
    runner.ask(_submit(1, "<say>ab</say>"))

    def publish(message: Published) -> None:
        events.append("step" if isinstance(message, Step) else "beat")
        if events.count("quiet") and events[-3:] == ["quiet", "beat", "beat"]:
            runner.loop.inbox.put(None)

    runner.loop.run(publish)
    assert events.count("quiet") == 1
    between = events[len(events) - events[::-1].index("step") : events.index("quiet")]
    assert between.count("beat") >= 2
    assert "step" not in events[events.index("quiet") :]


def test_the_prefix_cache_outlives_a_loop_that_cannot_publish(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, "a text that is known then <say>abcd</say>"))

    def publish(message: Published) -> None:
        if isinstance(message, Step) and message.tokens:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        runner.loop.run(publish)
    again = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, cache=runner.loop.cache)
    assert not [slot for slot in again.cache.accounting.slots if slot.occupied]
    runner.loop = again
    runner.ask(_submit(2, "a text that is known then <say>abcd</say>"))
    runner.finish()
    assert runner.said(2) == b"abcd"
    assert again.heartbeat().counters.prefix_hits > 20


def test_a_loop_that_cannot_publish_ends_and_the_next_one_starts_empty(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, "<say>abcd</say>"))
    published: list[Step | Heartbeat] = []

    def publish(message: Published) -> None:
        if len(published) == 3:
            raise BrokenPipeError
        assert isinstance(message, Step | Heartbeat)
        published.append(message)

    with pytest.raises(BrokenPipeError):
        runner.loop.run(publish)
    # As ``service`` does it.
    backend.reset()
    again = Runner(backend)
    again.ask(_submit(1, "<say>abcd</say>"))
    again.finish()
    assert again.said(1) == b"abcd"


_Script = tuple[list[int], int, int, int | None, float]
_SCRIPTS = st.tuples(
    st.lists(st.sampled_from([97, 98, 99]), min_size=1, max_size=120),  # the prompt
    st.integers(1, 90),  # max_tokens
    st.integers(0, 40),  # the step before which it comes
    st.one_of(st.none(), st.integers(1, 60)),  # steps after which it is cancelled
    st.sampled_from([0.0, 0.8]),
)


def test_replies_are_the_same_when_no_plan_is_reused() -> None:
    reused = 0

    @settings(max_examples=60, deadline=None)
    @given(st.lists(_SCRIPTS, min_size=1, max_size=6), st.sampled_from([512, 1024, 4096]), st.booleans(), st.booleans())
    def run(scripts: list[_Script], kv_tokens: int, always_shared: bool, drafts: bool) -> None:
        nonlocal reused
        usual, replan = (
            _replies(scripts, kv_tokens, always_shared=always_shared, drafts=drafts, replan=replan)
            for replan in (False, True)
        )
        assert usual[:2] == replan[:2]
        assert replan[2] == 0
        reused += usual[2]

    run()
    assert reused > 300


def _replies(
    scripts: list[_Script], kv_tokens: int, *, always_shared: bool, drafts: bool, replan: bool
) -> tuple[dict[int, list[int]], list[Finished], int]:
    """The tokens of each reply until it ends or is cancelled, how they ended, and how many steps reused a plan."""
    backend = ContextBackend(ctx=512, parallel=3, kv_tokens=kv_tokens, batch=64, always_shared=always_shared)
    speculator = SimulatedSpeculator(LookupDrafter(), memory_bound) if drafts else None
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=300, speculator=speculator)
    reused = 0

    def can_reuse_plan() -> bool:
        nonlocal reused
        holds = not replan and Scheduler.can_reuse_plan(loop._scheduler)
        reused += holds
        return holds

    loop._scheduler.can_reuse_plan = can_reuse_plan  # type: ignore[method-assign]  # watches the method
    said: dict[int, list[int]] = {identity: [] for identity in range(len(scripts))}
    finished: list[Finished] = []

    def publish(message: Published) -> None:
        if isinstance(message, Step):
            for identity, token in zip(message.ids, message.tokens, strict=True):
                said[identity].append(token)
            finished.extend(message.finished)

    for number in range(3000):
        for identity, (prompt, most, begins, cancelled, temperature) in enumerate(scripts):
            if number == begins:
                sampling = Sampling(temperature=temperature, seed=identity)
                sequence = prepare_sequence(
                    backend,
                    Submit(id=identity, prompt=[*prompt], params=GenerationParams(max_tokens=most, sampling=sampling)),
                )
                assert isinstance(sequence, Sequence)
                loop.inbox.put(sequence)
            if cancelled is not None and len(said[identity]) >= cancelled:
                loop.inbox.put(identity)
        loop.take()
        loop.step(publish)
        if not loop.has_work and number > 40:
            break
    assert not loop.has_work
    # A draft may bring more than was waited for.
    whole = {identity: tokens[: scripts[identity][3]] for identity, tokens in said.items()}
    ended = sorted((one for one in finished if scripts[one.id][3] is None), key=lambda one: one.id)
    return whole, ended, reused


def test_logprobs_come_with_their_token(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, "<say>ab</say>"))
    runner.ask(_submit(2, "<say>ab</say>", logprobs=2))
    runner.finish()
    for step in runner.steps:
        assert set(step.logprobs) == {index for index, identity in enumerate(step.ids) if identity == 2}
        for index, entry in step.logprobs.items():
            assert entry.top[0] == (step.tokens[index], entry.logprob)
            assert entry.logprob == pytest.approx(0.0, abs=1e-6)


def test_a_row_of_nan_fails_its_own_sequence_and_leaves_no_prefix(backend: FakeBackend) -> None:
    runner = Runner(backend)
    runner.ask(_submit(1, "<say>ab<nan></say>"))
    runner.ask(_submit(2, "<say>abcdef</say>"))
    runner.finish()
    assert [(failed.id, failed.message) for step in runner.steps for failed in step.failed] == [
        (1, "the model computed a logit that is not a number (the greatest is nan)")
    ]
    assert (runner.said(1), runner.finished(1)) == (b"ab", [])
    assert (runner.said(2), len(runner.finished(2))) == (b"abcdef", 1)
    runner.ask(_submit(3, "<say>ab<nan></say>"))
    runner.finish()
    (started,) = [started for step in runner.steps for started in step.started if started.id == 3]
    assert started.cached_tokens == len("<say>ab"), "shared with the sound sequence, not with the failed one"


@pytest.mark.parametrize("snapshots", [0, 3])
@pytest.mark.parametrize("memory", ["recurrent", "hybrid"])
def test_a_sequence_that_fails_in_memory_that_cannot_be_cut_leaves_the_others_running(
    memory: Memory, snapshots: int
) -> None:
    runner = Runner(FakeBackend(ctx=256, parallel=3, kv_tokens=0, batch=64, memory=memory, snapshots=snapshots))
    runner.ask(_submit(1, "<say><nan></say>"))
    runner.ask(_submit(2, "<say>ab<nan></say>"))
    runner.ask(_submit(3, "<say>abcdef</say>"))
    runner.finish()
    assert sorted(failed.id for step in runner.steps for failed in step.failed) == [1, 2]
    assert (runner.said(2), runner.said(3)) == (b"ab", b"abcdef")
    assert len(runner.finished(3)) == 1


def test_the_loop_sends_heartbeats_while_idle_and_ends_with_the_connection(backend: FakeBackend) -> None:
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0)
    published: list[Step | Heartbeat] = []
    beaten = threading.Event()

    def publish(message: Step | Heartbeat) -> None:
        published.append(message)
        beaten.set()

    thread = threading.Thread(target=loop.run, args=(publish,))
    thread.start()
    assert beaten.wait(10)
    sequence = prepare_sequence(backend, _submit(1, f"<say>{'x' * 200}</say>"))
    assert isinstance(sequence, Sequence)
    loop.inbox.put(sequence)
    loop.inbox.put(None)
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(published[0], Heartbeat)
    assert not loop.has_work, "a sequence whose client is gone is dropped"


def test_a_heartbeat_reports_at_once_that_the_loop_is_idle(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics that are read right after a reply's end, or after a cancel, show it."""
    monkeypatch.setattr("tailrace.engine.loop.HEARTBEAT_SECONDS", 1000.0)
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0)
    beats: queue.SimpleQueue[Heartbeat] = queue.SimpleQueue()

    def publish(message: Published) -> None:
        if isinstance(message, Heartbeat):
            beats.put(message)

    thread = threading.Thread(target=loop.run, args=(publish,))
    thread.start()
    try:
        assert beats.get(timeout=10).counters.steps == 0
        sequence = prepare_sequence(backend, _submit(1, "<say>hello</say>"))
        assert isinstance(sequence, Sequence)
        loop.inbox.put(sequence)
        assert beats.get(timeout=10).running == 1
        last = beats.get(timeout=10)
        assert last.running == 0
        assert last.counters.decode_tokens >= len("hello")
    finally:
        loop.inbox.put(None)
        thread.join(10)


def test_a_change_of_the_queue_is_published_before_the_step_that_it_begins(backend: FakeBackend) -> None:
    """A step may read a long prompt, and steps that repeat each other publish nothing but tokens."""
    runner = Runner(backend)
    published: list[Published] = []
    for identity in (1, 2, 3):
        runner.ask(_submit(identity, f"<say>{'x' * 5 * identity}</say>"))
    while runner.loop.has_work:
        runner.loop.take()
        runner.loop.step(published.append)
    beats = [(place, item) for place, item in enumerate(published) if isinstance(item, Heartbeat)]
    assert [(beat.running, beat.waiting) for _, beat in beats] == [(2, 1), (2, 0), (1, 0)]
    assert beats[0][0] == 0
    for place, beat in beats:
        step = published[place + 1]
        assert isinstance(step, Step)
        assert len(step.ids) == beat.running


def test_a_sequence_doesn_t_wait_for_a_file_for_ever(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk hangs: the prompt is computed instead."""
    runner = Runner(backend)
    monkeypatch.setattr(runner.loop._executor, "fetch", lambda tokens, identity: True)
    runner.ask(_submit(1, "<say>ok</say>"))
    runner.loop.take()
    assert runner.loop.step() is None
    runner.loop._end_late_fetches(time.monotonic() + 5.0)
    assert runner.loop.step() is None
    runner.loop._end_late_fetches(time.monotonic() + 11.0)
    runner.finish()
    assert runner.said(1) == b"ok"
