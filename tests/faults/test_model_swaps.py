"""Clients of models that don't fit together, who come and go at random: nothing fails, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from openai_wire import Connection, ask, chat, metric
from servers import ServerProcess, fake, wait_for

MODELS = ("a", "b", "c", "d")
MEGABYTES = 700  #: two of them
SAY = "<say>" + "x" * 40 + "</say>"


def sizes() -> dict[str, str]:
    return {"models_mb": str(MEGABYTES), "fake_weights_mb": "150"}


def loaded(server: ServerProcess) -> float:
    return metric(server.port, "tailrace:model_memory_bytes")


def client(server: ServerProcess, seed: int, until: float) -> int:
    """Sends requests until the time; half of them are given up at some moment. How many were served."""
    numbers = random.Random(seed)
    served = 0
    while time.monotonic() < until:
        with Connection(server.port) as connection:
            body = chat(SAY, model=numbers.choice(MODELS), stream=numbers.random() < 0.5)
            connection.request("POST", "/v1/chat/completions", body)
            if numbers.random() < 0.5:
                time.sleep(numbers.choice([0.0, 0.01, 0.5, 3.0]) * numbers.random())
                (connection.reset if numbers.random() < 0.5 else connection.close)()
                continue
            reply = connection.read()
            assert reply.status == 200, reply.body
            assert b"error" not in reply.body
            served += 1
    return served


def is_at_rest(server: ServerProcess) -> bool:
    names = ("model_waiting_requests", "model_requests", "admission_requests")
    text = ask(server.port, "GET", "/metrics").body.decode()
    return all(metric(server.port, f"tailrace:{name}") == 0 for name in names if f"tailrace:{name}" in text)


def is_served(server: ServerProcess, model: str) -> bool:
    return ask(server.port, "POST", "/v1/chat/completions", chat(SAY, model=model)).status == 200


def test_clients_that_come_and_go_while_models_are_swapped() -> None:
    with fake(*MODELS, "--keepalive-seconds", "0.2", step=0.01, **sizes()) as server, ThreadPoolExecutor(8) as clients:
        until = time.monotonic() + 40
        work = [clients.submit(client, server, seed, until) for seed in range(8)]
        while not all(done.done() for done in work):
            assert loaded(server) <= MEGABYTES * 1_000_000
            time.sleep(0.1)
        assert sum(done.result() for done in work) > 0
        wait_for("all to be at rest", lambda: is_at_rest(server))
        assert all(is_served(server, model) for model in MODELS)
        assert "defect" not in server.log


def test_engines_that_are_killed_while_models_are_swapped() -> None:
    """Requests of a killed engine may fail with its error, and no other. Everything goes on afterwards."""
    numbers = random.Random(3)
    with fake(*MODELS, step=0.01, **sizes()) as server, ThreadPoolExecutor(4) as clients:
        until = time.monotonic() + 30

        def work(seed: int) -> set[int]:
            choice = random.Random(seed)
            statuses = set()
            while time.monotonic() < until:
                body = chat(SAY, model=choice.choice(MODELS))
                statuses.add(ask(server.port, "POST", "/v1/chat/completions", body).status)
            return statuses

        futures = [clients.submit(work, seed) for seed in range(4)]
        while time.monotonic() < until:
            time.sleep(3 * numbers.random())
            engines = server.children("engine")
            if engines:
                os.kill(numbers.choice(engines), signal.SIGKILL)
        assert set().union(*(done.result() for done in futures)) <= {200, 500, 503}
        for model in MODELS:  # One whose engines were killed before they were ready is tried again a while later.
            wait_for(f"a reply of {model}", partial(is_served, server, model))
        assert "defect" not in server.log
