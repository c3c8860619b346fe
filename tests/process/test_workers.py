"""A model that is divided between this process and a real worker. ``make test-devices`` has every other placement."""

from __future__ import annotations

from loop_replies import Replies
from placed_backend import load_placed
from tailrace.engine.kernels import loader
from worker_process import WorkerProcess


def test_a_model_is_divided_between_this_process_and_a_worker() -> None:
    worker = WorkerProcess()
    try:
        backend = load_placed([worker.endpoint], placement={"layers": {"20-29": worker.endpoint}}, ctx=512)
        try:
            report = backend.placement
            assert report is not None
            assert report.is_known
            assert report.differences == ()
            assert [each.layers for each in report.devices] == [20, 10]
            if loader.status() == "on":
                assert backend.repacked_bytes >= report.devices[0].weights_bytes * 0.9
            replies = Replies(backend)
            replies.ask(1, "Name a river.", max_tokens=8)
            replies.finish()
            assert set(replies.finished) == {1}
        finally:
            backend.close()
    finally:
        worker.close()
