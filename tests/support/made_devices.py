"""The metrics of a made-up server whose model is on a worker with a GPU: no test's machine has all the figures."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from model_load import Load
from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.exposition import CONTENT_TYPE
from tailrace.observe.metrics import Metrics
from tailrace.protocol import LinkFigures, LinkTraffic, ModelInfo, SpeedComparison, WorkerFigures
from tailrace.worker_protocol.device_reading import DeviceReading

WORKER = "10.0.0.2:50052"
CPU = DeviceReading(device="cpu", memory=32_000, free=16_000, use=0.25)
GPU = DeviceReading(
    device="gpu0", memory=80_000, free=20_000, use=0.5, temperature=61.0, temperature_limit=87.0, power=210.0
)


class PlacedEngine:
    """One engine, which makes a step with its worker at each look."""

    engine_starts = 1
    model_info: ModelInfo | None = None

    def __init__(self) -> None:
        self._steps = 0

    def figures(self, replica: int) -> EngineFigures:
        """See ``EngineState``."""
        self._steps += 1
        steps = self._steps
        traffic = LinkTraffic(steps, 100 * steps, 200 * steps)
        link = LinkFigures(
            traffic={"load": LinkTraffic(0, 5000, 10), "decode": traffic},
            sending_seconds=0.001 * steps,
            retransmits=2,
            round_trip=0.003,
        )
        worker = WorkerFigures(worker=WORKER, devices=(GPU,), link=link, receiving_seconds=0.002 * steps)
        speed = SpeedComparison(predicted_decode=100.0, predicted_prompt=900.0, decode=90.0)
        return EngineFigures(connected=True, workers=(worker,), speed=speed)


def placed_metrics() -> Metrics:
    """This machine has a CPU alone; ``placed`` is the model's name."""
    metrics = Metrics()
    metrics.read_devices = lambda: (CPU,)
    metrics.is_ready = lambda: True
    metrics.add_model("placed", PlacedEngine(), Load())
    return metrics


@contextlib.contextmanager
def metrics_server(metrics: Metrics) -> Iterator[int]:
    """Serves them to Prometheus; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            body = metrics.render()
            self.send_response(200)
            self.send_header("content-type", CONTENT_TYPE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
