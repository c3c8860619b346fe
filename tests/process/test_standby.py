"""An engine's process that starts before it has orders: what it has by then, and what it does with them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from servers import PATIENCE, wait_for
from tailrace import ipc
from tailrace.child import Standby, Start
from tailrace.machine.plan import MachinePlan, PoolPlan, ReplicaPlan
from tailrace.protocol import FromEngine, Hello
from tailrace.settings import Settings
from tailrace.shared_memory.memory_file import create_page


class Waiting:
    """A standby of the usual plan, which has imported its modules."""

    def __init__(self) -> None:
        self.hub, self.engine_hub = ipc.connection_hub()
        self.hub.setblocking(False)
        self.page = create_page()
        standby = Standby(kernels="on", poll=1, imports_llama=True)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tailrace.engine.process", msgspec.json.encode(standby).decode()],
            stdin=subprocess.PIPE,
            pass_fds=(self.engine_hub.fileno(), self.page),
        )
        maps = Path(f"/proc/{self.process.pid}/maps")
        wait_for("the imports", lambda: "libllama" in maps.read_text())

    def order(self, poll: int) -> Hello:
        """Give it orders with this poll level; what it says of itself."""
        pool = PoolPlan(threads=1, poll=poll)
        start = Start(
            settings=Settings(backend="fake", ctx=512, kv_tokens=512, poll=poll),
            plan=MachinePlan((ReplicaPlan(node=None, decode=pool, prefill=pool),)),
            parent=os.getpid(),
            model_name="fake",
            model_path=None,
            hub_fd=self.engine_hub.fileno(),
            progress_fd=self.page,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(start))
        self.process.stdin.close()
        assert select.select([self.hub], [], [], PATIENCE)[0], "it has no connection"
        connection = ipc.take_connection(self.hub)
        assert connection is not None
        with connection:
            frames: ipc.FrameDecoder[FromEngine] = ipc.FrameDecoder(FromEngine)
            while not (messages := frames.feed(connection.recv(1 << 20))):
                pass
        assert isinstance(messages[0], Hello)
        return messages[0]


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    waiting = Waiting()
    yield waiting
    waiting.process.kill()
    waiting.process.wait()
    assert waiting.process.stdin is not None
    waiting.process.stdin.close()
    waiting.hub.close()
    waiting.engine_hub.close()
    os.close(waiting.page)


@pytest.mark.parametrize("poll", [1, 0])
def test_a_standby_serves_with_any_orders_as_the_same_process(waiting: Waiting, poll: int) -> None:
    hello = waiting.order(poll)
    assert (hello.name, hello.pid) == ("fake", waiting.process.pid)
    waiting.process.send_signal(signal.SIGTERM)
    assert waiting.process.wait(PATIENCE) == -signal.SIGTERM


def test_a_standby_without_orders_ends_with_its_standard_input(waiting: Waiting) -> None:
    threads = list(Path(f"/proc/{waiting.process.pid}/task").iterdir())
    assert len(threads) == 1, "threads would miss the plan's binding"
    assert waiting.process.stdin is not None
    waiting.process.stdin.close()
    assert waiting.process.wait(PATIENCE) == 0
