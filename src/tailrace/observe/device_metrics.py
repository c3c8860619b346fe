"""The metrics of devices, and of the links to workers. A figure that isn't known has no sample.

``worker`` is the address of the worker whose machine has the device, and ``local`` for this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.metric import Labelled, Metric
from tailrace.observe.vllm_metrics import EngineView
from tailrace.protocol import LinkFigures, WorkerFigures
from tailrace.worker_protocol.device_reading import DeviceReading

#: The label of this machine's devices.
LOCAL = "local"
#: The devices of each worker and of this machine.
Devices = Mapping[str, Iterable[DeviceReading]]


def all_devices(local: Iterable[DeviceReading], engines: Iterable[EngineFigures]) -> Devices:
    """Those of this machine, and those that the engines' workers have reported. Two engines may have one worker."""
    found: dict[str, Iterable[DeviceReading]] = {LOCAL: tuple(local)}
    for engine in engines:
        for each in engine.workers:
            found.setdefault(each.worker, each.devices)
    return found


def _device(name: str, text: str, value: Callable[[DeviceReading], float | None]) -> Metric[Devices]:
    def values(devices: Devices) -> Labelled:
        found: Labelled = {}
        for worker, readings in devices.items():
            for each in readings:
                if (number := value(each)) is not None:
                    found[worker, each.device] = number
        return found

    return Metric(f"tailrace:device_{name}", "gauge", text, values, ("worker", "device"))


DEVICE_METRICS: tuple[Metric[Devices], ...] = (
    _device("memory_bytes", "Memory of a device", lambda each: each.memory),
    _device("memory_free_bytes", "The part of it that can be allocated", lambda each: each.free),
    _device("use_ratio", "The part of the time in which a device computed, for any program", lambda each: each.use),
    _device("temperature_celsius", "A device's hottest sensor", lambda each: each.temperature),
    _device(
        "temperature_limit_celsius",
        "The temperature at which a device slows down or ends",
        lambda each: each.temperature_limit,
    ),
    _device("power_watts", "What a device takes", lambda each: each.power),
)


def _links(view: EngineView) -> Iterator[tuple[WorkerFigures, LinkFigures]]:
    for each in view.figures.workers:
        if each.link is not None:
            yield each, each.link


def _link_bytes(view: EngineView) -> Labelled:
    found: Labelled = {}
    for worker, link in _links(view):
        for use, traffic in link.traffic.items():
            found[worker.worker, "to_worker", use] = traffic.sent
            found[worker.worker, "from_worker", use] = traffic.received
    return found


def _link_steps(view: EngineView) -> Labelled:
    return {
        (worker.worker, use): traffic.steps
        for worker, link in _links(view)
        for use, traffic in link.traffic.items()
        if use in ("prompt", "decode")
    }


def _link_seconds(view: EngineView) -> Labelled:
    found: Labelled = {}
    for worker, link in _links(view):
        found[worker.worker, "to_worker"] = link.sending_seconds
        if worker.receiving_seconds is not None:
            found[worker.worker, "from_worker"] = worker.receiving_seconds
    return found


def _speeds(view: EngineView) -> Labelled:
    speed = view.figures.speed
    if speed is None:
        return {}
    found: Labelled = {
        ("decode", "predicted"): speed.predicted_decode,
        ("prompt", "predicted"): speed.predicted_prompt,
    }
    measured = (("decode", speed.decode), ("prompt", speed.prompt))
    found.update({(phase, "measured"): value for phase, value in measured if value})
    return found


LINK_METRICS: tuple[Metric[EngineView], ...] = (
    Metric(
        "tailrace:link_bytes_total",
        "counter",
        "Bytes to and from a worker: of loading the model, of steps with prompt tokens, of other steps (decode), "
        "and between steps (other)",
        _link_bytes,
        ("worker", "direction", "use"),
    ),
    Metric("tailrace:link_steps_total", "counter", "Steps with a worker", _link_steps, ("worker", "use")),
    Metric(
        "tailrace:link_seconds_total",
        "counter",
        "Time in which such bytes were on their way",
        _link_seconds,
        ("worker", "direction"),
    ),
    Metric(
        "tailrace:link_round_trip_seconds",
        "gauge",
        "The running mean of the round trip to a worker, by TCP",
        lambda view: {worker.worker: link.round_trip for worker, link in _links(view)},
        ("worker",),
    ),
    Metric(
        "tailrace:link_retransmits_total",
        "counter",
        "TCP segments to a worker that were sent again",
        lambda view: {worker.worker: link.retransmits for worker, link in _links(view)},
        ("worker",),
    ),
    Metric(
        "tailrace:placement_tokens_per_second",
        "gauge",
        "Speed of a model that is divided between devices, as predicted and as measured",
        _speeds,
        ("phase", "source"),
    ),
)
