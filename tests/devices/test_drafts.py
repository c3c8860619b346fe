"""Draft models and prediction layers on workers: replies stay those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from drafted_replies import replies
from loop_replies import Replies
from openai_wire import ask
from placed_backend import load_placed
from servers import ServerProcess, serving, wait_for
from simulated_passes import SimulatedSpeculator
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.speculation.draft_model import DraftModel
from tailrace.engine.speculation.prediction_layer import PredictionLayer
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings
from teacher_forcing import shortfalls
from worker_process import WorkerProcess

Workers = tuple[WorkerProcess, WorkerProcess]

#: See ``process/test_engine.py``.
NOISE = 0.6
_QUESTIONS = ("Name three rivers of Europe.", "Repeat this: one two three, one two three, one two three.")


def load(worker: WorkerProcess | None, *, shares: bool = False, rope_freq_base: float = 0.0) -> LlamaBackend:
    """The model on this worker; None: in this process."""
    if worker is None:
        settings = Settings(threads=2, ctx=1024, parallel=4, rope_freq_base=rope_freq_base)
        return create_llama(locate_model(STARTER_MODEL).path, settings)
    return load_placed([worker.endpoint], local=False, shares=shares, rope_freq_base=rope_freq_base)


def long_pass(n_tokens: int) -> float:
    """A draft pays, however slow this machine is."""
    return 100.0


@pytest.mark.parametrize(
    ("target_at", "draft_at"),
    [(None, 0), (0, None), (0, 0), (0, 1)],
    ids=["draft on a worker", "target on a worker", "both on one worker", "each on a worker of its own"],
)
def test_a_draft_model_may_be_elsewhere(
    workers: Workers, alone: LlamaBackend, target_at: int | None, draft_at: int | None
) -> None:
    target = load(None if target_at is None else workers[target_at])
    # It is the same model with other positions, so that a part of its draft tokens is wrong.
    draft = load(None if draft_at is None else workers[draft_at], shares=target_at == draft_at, rope_freq_base=3e3)
    try:
        speculator = SimulatedSpeculator(DraftModel(draft, target.vocabulary), long_pass)
        told = Replies(target, speculator=speculator)
        for number, question in enumerate(_QUESTIONS):
            told.ask(number, question, max_tokens=40)
        told.finish()
        counters = told.loop.heartbeat().counters
        assert 0 < counters.accepted_tokens < counters.draft_tokens
        for number, prompt in told.prompts.items():
            alone.reset()
            assert max(shortfalls(alone, prompt, told.tokens[number])) < NOISE
    finally:
        draft.close()
        target.close()


def test_a_prediction_layer_drafts_on_a_worker(workers: Workers, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, "mtp", SHAPES["tiny-qwen35-mtp"], byte_vocabulary(), "Q8_0")
    backend = load_placed([workers[0].endpoint], model=path, local=False, draft_tokens=4)
    try:
        assert backend.placement is not None
        assert backend.placement.differences == ()
        assert backend.prediction_context is not None
        plain, _ = replies(backend, None, together=False)
        speculator = SimulatedSpeculator(PredictionLayer(backend.prediction_context), long_pass)
        drafted, counters = replies(backend, speculator, together=False)
        assert drafted == plain
        assert counters.accepted_tokens > 0
    finally:
        backend.close()


def test_a_server_has_both_models_on_one_worker(workers: Workers) -> None:
    endpoint = workers[0].endpoint
    body = {"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 16, "temperature": 0}
    drafted = ("--speculate", "draft", "--draft-model", STARTER_MODEL, "--draft-devices", endpoint)
    found = []
    for arguments in (("--speculate", "off"), drafted):
        with serving("--ctx", "1024", "--devices", endpoint, *arguments) as server:
            reply = ask(server.port, "POST", "/v1/chat/completions", body)
            assert reply.status == 200, reply.body
            found.append(reply.json()["choices"][0]["message"]["content"])
    assert found[0] == found[1]
    assert workers[0].process.poll() is None


def test_two_servers_with_exchanged_workers_do_not_wait_for_each_other(workers: Workers) -> None:
    """Each wants the other's worker for its draft model, which it loads after the model."""
    first, second = (worker.endpoint for worker in workers)
    drafted = ("--ctx", "1024", "--speculate", "draft", "--draft-model", STARTER_MODEL)
    servers = [
        ServerProcess("--port", "0", "--devices", here, "--draft-devices", there, *drafted)
        for here, there in ((first, second), (second, first))
    ]
    try:
        wait_for("one of them to end", lambda: any(each.process.poll() is not None for each in servers))
        refused, served = sorted(servers, key=lambda each: each.process.poll() is None)
        assert refused.process.wait() == 78
        assert "is in use by " in refused.log
        served.wait_ready()
        found = ask(served.port, "GET", "/stats").json()["hardware"]["workers"]
        assert {each["worker"] for each in found} == {first, second}
        assert all(each["link"]["sent"] > 0 for each in found)
    finally:
        for each in servers:
            each.close()
