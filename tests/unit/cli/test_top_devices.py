"""The part of ``tailrace top`` about devices: at several widths, and absent where there is nothing to show."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from diagnosed_server import changed
from tailrace.cli.top_screen import screen
from tailrace.diagnosis.hardware_report import HardwareStats, LinkStats, WorkerStats
from tailrace.diagnosis.report import Stats, make_stats
from tailrace.protocol import DeviceShare, SpeedComparison
from tailrace.worker_protocol.device_reading import DeviceReading

CPU = DeviceReading(device="cpu", memory=32_000_000_000, free=12_000_000_000, use=0.5)
GPU = DeviceReading(device="gpu0", memory=80_000_000_000, free=20_000_000_000, use=0.41, temperature=61.4, power=210.6)


def share(name: str, layers: int) -> DeviceShare:
    return DeviceShare(
        name=name, layers=layers, tensors=9, weights_bytes=9, kv_bytes=9, free_bytes=9, total_bytes=9, cache_bytes=None
    )


def worker(name: str, *devices: DeviceReading, replica: int = 0) -> WorkerStats:
    link = LinkStats(
        sent_rate=1_200_000,
        received_rate=3_400_000,
        sent=1,
        received=1,
        uses={},
        round_trip=0.001,
        sending_seconds=0.0,
        receiving_seconds=None,
        retransmits=0,
    )
    return WorkerStats(worker=name, replica=replica, devices=devices, link=link)


def shown(hardware: HardwareStats, *devices: DeviceShare, width: int = 80, speed: SpeedComparison | None = None) -> str:
    stats = make_stats(*changed())
    (engine,) = stats.engines
    engines = [msgspec.structs.replace(engine, speed=speed)]
    return drawn(msgspec.structs.replace(stats, hardware=hardware, devices=devices, engines=engines), width)


def drawn(stats: Stats, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(screen(stats, url="http://127.0.0.1:8000", width=width))
    written = console.file.getvalue()  # type: ignore[attr-defined]  # the console's file is the StringIO above
    assert isinstance(written, str)
    return written


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return " ".join(line.split())


def test_each_device_has_a_row_with_what_is_known() -> None:
    text = shown(
        HardwareStats(local=(CPU,), workers=(worker("10.0.0.2:50052", CPU, GPU),)),
        share("local", 20),
        share("10.0.0.2:50052", 10),
        speed=SpeedComparison(predicted_decode=168.2, predicted_prompt=900.0, decode=161.8),
    )
    assert row(text, "local cpu") == "local cpu 20.0 GB of 32.0 GB 50"
    assert row(text, "10.0.0.2:50052 cpu") == "10.0.0.2:50052 cpu 20.0 GB of 32.0 GB 50 1.2 MB 3.4 MB"
    assert row(text, "10.0.0.2:50052 gpu0") == "10.0.0.2:50052 gpu0 60.0 GB of 80.0 GB 41 61 211"
    assert "20 on local, 10 on 10.0.0.2:50052" in text
    assert "162 tokens/s, predicted 168 tokens/s" in text


def test_a_plain_cpu_has_no_such_part() -> None:
    for local in ((), (CPU,)):
        text = shown(HardwareStats(local=local))
        assert "DEVICE" not in text
        assert "layers" not in text


def test_a_gpu_of_this_machine_has_one() -> None:
    assert row(shown(HardwareStats(local=(CPU, GPU))), "local gpu0").endswith("61 211")


def test_links_of_two_engines_to_one_worker_are_added_up() -> None:
    workers = (worker("b:50052", GPU), worker("b:50052", GPU, replica=1))
    assert row(shown(HardwareStats(workers=workers)), "b:50052 gpu0").endswith("2.4 MB 6.8 MB")


def test_a_worker_without_figures_has_its_link() -> None:
    assert row(shown(HardwareStats(local=(CPU,), workers=(worker("b:50052"),))), "b:50052") == "b:50052 1.2 MB 3.4 MB"


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    name = f"{200 * 'x'}.example:50052"
    text = shown(
        HardwareStats(local=(CPU, GPU), workers=(worker(name, CPU, GPU),)),
        share("local", 3),
        share(name, 4),
        width=width,
    )
    assert max(map(len, text.splitlines())) <= width
    assert "DEVICE" in text
