"""The metrics of devices and of links to workers: each has its labels, and what isn't known has no sample."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from made_devices import GPU, WORKER, placed_metrics
from model_load import Load
from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.metrics import Metrics
from tailrace.protocol import ModelInfo, WorkerFigures
from tailrace.worker_protocol.device_reading import DeviceReading, bounded


class Engine:
    engine_starts = 1
    model_info: ModelInfo | None = None

    def __init__(self, *workers: WorkerFigures) -> None:
        self._workers = workers

    def figures(self, replica: int) -> EngineFigures:
        return EngineFigures(workers=self._workers)


def found(metrics: Metrics, prefix: str) -> dict[tuple[str, ...], float]:
    """The samples of the metrics that begin so: by the rest of the name and the labels' values, as they stand."""
    return {
        (sample.name.removeprefix(prefix), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def test_each_device_has_the_figures_that_are_known() -> None:
    assert found(placed_metrics(), "tailrace:device_") == {
        ("memory_bytes", "local", "cpu"): 32_000,
        ("memory_free_bytes", "local", "cpu"): 16_000,
        ("use_ratio", "local", "cpu"): 0.25,
        ("memory_bytes", WORKER, "gpu0"): 80_000,
        ("memory_free_bytes", WORKER, "gpu0"): 20_000,
        ("use_ratio", WORKER, "gpu0"): 0.5,
        ("temperature_celsius", WORKER, "gpu0"): 61,
        ("temperature_limit_celsius", WORKER, "gpu0"): 87,
        ("power_watts", WORKER, "gpu0"): 210,
    }


def test_a_link_s_bytes_are_by_direction_and_use() -> None:
    labels = ("0", "placed", WORKER)
    assert found(placed_metrics(), "tailrace:link_") == {
        ("bytes_total", *labels, "to_worker", "load"): 5000,
        ("bytes_total", *labels, "from_worker", "load"): 10,
        ("bytes_total", *labels, "to_worker", "decode"): 100,
        ("bytes_total", *labels, "from_worker", "decode"): 200,
        ("steps_total", *labels, "decode"): 1,
        ("seconds_total", *labels, "to_worker"): 0.001,
        ("seconds_total", *labels, "from_worker"): 0.002,
        ("round_trip_seconds", *labels): 0.003,
        ("retransmits_total", *labels): 2,
    }


def test_a_speed_that_isn_t_measured_yet_has_no_sample() -> None:
    assert found(placed_metrics(), "tailrace:placement_") == {
        ("tokens_per_second", "0", "placed", "decode", "predicted"): 100,
        ("tokens_per_second", "0", "placed", "prompt", "predicted"): 900,
        ("tokens_per_second", "0", "placed", "decode", "measured"): 90,
    }


def test_a_worker_of_two_engines_is_shown_once_and_a_link_that_isn_t_counted_not_at_all() -> None:
    metrics = Metrics(several=True)
    worker = WorkerFigures(worker=WORKER, devices=(GPU,), link=None, receiving_seconds=None)
    for name in "ab":
        metrics.add_model(name, Engine(worker), Load())
    text = metrics.render().decode()
    assert text.count(f'tailrace:device_power_watts{{worker="{WORKER}",device="gpu0"}}') == 1
    assert not found(metrics, "tailrace:link_")


def test_a_model_on_one_machine_without_figures_has_none() -> None:
    metrics = Metrics()
    metrics.add_model("m", Engine(), Load())
    for prefix in ("tailrace:device_", "tailrace:link_", "tailrace:placement_"):
        assert not found(metrics, prefix)


def test_what_a_worker_reports_can_t_make_up_labels() -> None:
    """Each name would be another series that Prometheus keeps."""
    names = ["cpu", "gpu0", "gpu31", "gpu100", "gpu", 'x"} 1\n', "CPU", "gpu٣", "gpu1\n"]
    assert [each.device for each in bounded(DeviceReading(device=name) for name in names)] == ["cpu", "gpu0", "gpu31"]
    assert len(bounded(DeviceReading(device="cpu") for _ in range(100))) == 32
