"""The setting ``devices``."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.serving.device_list import DeviceList, parse_devices, planned_devices, worker_addresses
from tailrace.settings import Settings


def test_workers_have_llama_cpps_port_where_none_is_named() -> None:
    assert parse_devices("local, 10.0.0.2 ,gpu-box:6000") == DeviceList(True, ("10.0.0.2:50052", "gpu-box:6000"))
    assert parse_devices("A:01") == DeviceList(False, ("a:1",))
    assert parse_devices("local") == parse_devices("LOCAL") == DeviceList(True, ())


@pytest.mark.parametrize(
    "text",
    [
        *("a:", "a:0", "a:65535", "a:b", "a:²", ":5", "local,,", "a b:5", "a:5:6", f"a:{'9' * 5000}"),
        *("::", "::1", "[::1]:50052", "http://a:5", "me@a:5", "a/1", "-a", "a" * 254, "a\x1b[2J:5"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="devices can't have"):
        parse_devices(text)


def test_a_worker_is_named_once() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        parse_devices("a,A:50052")
    with pytest.raises(ConfigurationError, match="local twice"):
        parse_devices("local,a,local")


def test_a_gpu_is_planned_with_where_no_setting_divides_the_model() -> None:
    here = DeviceList(local=True, workers=())
    assert planned_devices(Settings(), has_gpu=True) == here
    assert planned_devices(Settings(gpu_layers=12), has_gpu=True) == here
    assert planned_devices(Settings(), has_gpu=False) is None
    assert planned_devices(Settings(gpu_layers=0), has_gpu=True) is None
    assert planned_devices(Settings(tensor_split="3,1"), has_gpu=True) is None
    named = planned_devices(Settings(devices="a", tensor_split="3,1"), has_gpu=False)
    assert named == DeviceList(local=False, workers=("a:50052",))


def test_an_engine_claims_the_workers_of_both_models() -> None:
    assert worker_addresses(Settings()) == frozenset()
    assert worker_addresses(Settings(devices="local,a,b:5")) == {"a:50052", "b:5"}
    drafts = Settings(devices="a", draft_devices="b", speculate="draft")
    assert worker_addresses(drafts) == {"a:50052", "b:50052"}
    assert worker_addresses(Settings(devices="a", draft_devices="b")) == {"a:50052"}
    assert worker_addresses(Settings(devices="::1")) == frozenset()
