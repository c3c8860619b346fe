"""The dashboard and the alert rules: they name existing metrics, and promtool and its tests accept them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from made_devices import placed_metrics
from model_load import Load
from prometheus_tools import program
from tailrace.cli.commands import command_line
from tailrace.cluster.metrics.ingress_metrics import INGRESS_METRICS, REPLICA_METRICS
from tailrace.cluster.metrics.ingress_metrics import MODEL_METRICS as CLUSTER_MODEL_METRICS
from tailrace.errors import ConfigurationError
from tailrace.observe.device_metrics import DEVICE_METRICS, LINK_METRICS
from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.llama_server_metrics import LLAMA_SERVER_METRICS
from tailrace.observe.model_metrics import MODEL_METRICS
from tailrace.observe.own_metrics import ENGINE_METRICS, SERVER_METRICS
from tailrace.observe.vllm_metrics import VLLM_METRICS
from tailrace.protocol import ModelInfo

_NAME = re.compile(r"\b(?:vllm|tailrace|llamacpp):\w+")


def printed(flag: str) -> str:
    result = CliRunner().invoke(command_line(), ["metrics", flag])
    assert result.exit_code == 0, result.output
    return result.stdout


def dashboard() -> Any:
    return json.loads(printed("--dashboard"))


def panels() -> list[Any]:
    return list(dashboard()["panels"])


def alerts() -> list[Any]:
    (group,) = yaml.safe_load(printed("--rules"))["groups"]
    return list(group["rules"])


def series() -> set[str]:
    found: set[str] = set()
    tables = (
        *(VLLM_METRICS, ENGINE_METRICS, MODEL_METRICS, SERVER_METRICS, LLAMA_SERVER_METRICS),
        *(INGRESS_METRICS, CLUSTER_MODEL_METRICS, REPLICA_METRICS, LINK_METRICS, DEVICE_METRICS),
    )
    for table in tables:
        for metric in table:
            endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
            found |= {f"{metric.name}{ending}" for ending in endings}
    return found


def test_one_of_the_two_has_to_be_chosen() -> None:
    for flags in ([], ["--dashboard", "--rules"]):
        result = CliRunner().invoke(command_line(), ["metrics", *flags])
        assert isinstance(result.exception, ConfigurationError)


def test_every_query_names_metrics_that_exist() -> None:
    known = series()
    expressions = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    variables = [
        variable["definition"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"
    ]
    rules = [alert["expr"] for alert in alerts()]
    for expression in (*expressions, *variables, *rules):
        names = set(_NAME.findall(expression))
        assert names or expression.startswith("up ")
        assert names <= known, expression


def test_the_dashboard_s_form() -> None:
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == [
        "Overview",
        "Latency",
        "Throughput",
        "Queue",
        "Engine steps",
        "KV cache",
        "Speculation",
        "Devices",
        "Errors",
        "Processes",
        "Cluster",
    ]
    assert board["schemaVersion"] >= 39
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "instance", "model_name"]


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"]


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *arguments], input=text, capture_output=True, text=True, check=False, timeout=120
    )


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(printed("--rules"), encoding="utf-8")
    done = promtool("check", "rules", str(tmp_path / "rules.yml"))
    assert done.returncode == 0, done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


class Engine:
    engine_starts = 1
    model_info: ModelInfo | None = None

    def figures(self, replica: int) -> EngineFigures:
        return EngineFigures()


def test_promtool_accepts_the_metrics() -> None:
    """But for the colon that vLLM and llama-server have in their names, and one name of vLLM's."""
    metrics = placed_metrics()
    metrics.add_model("m", Engine(), Load())
    text = metrics.render().decode()
    done = promtool("check", "metrics", text=re.sub(r"\b(vllm|llamacpp|tailrace):", r"\1_", text))
    complaints = [line for line in done.stderr.splitlines() if "vllm_iteration_tokens_total" not in line]
    assert complaints == []
    assert done.returncode in (0, 3), done.stderr


#: For each alert the series that set it off, and the labels that it has then.
FIRES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "TailraceDown": ({'up{instance="a",job="j"}': "1x9 0x50", 'tailrace:ready{instance="a",job="j"}': "1x9"}, {}),
    "TailraceNotReady": ({'tailrace:ready{instance="a",job="j"}': "0x60"}, {}),
    "TailraceStalled": ({'tailrace:engine_stalled{instance="a",job="j",engine="0"}': "1x60"}, {"engine": "0"}),
    "TailraceRestarts": (
        {'tailrace:process_starts_total{instance="a",job="j",process="engine 0"}': "1+1x60"},
        {"process": "engine 0"},
    ),
    "TailraceHangs": (
        {'tailrace:process_hangs_total{instance="a",job="j",process="http"}': "0x10 1x50"},
        {"process": "http"},
    ),
    "TailraceQueueFull": ({'tailrace:refusals_total{instance="a",job="j",reason="queue_full"}': "0+10x60"}, {}),
    "TailraceRefusesForTime": ({'tailrace:refusals_total{instance="a",job="j",reason="queue_timeout"}': "0+1x60"}, {}),
    "TailraceSlowFirstToken": (
        {
            'vllm:time_to_first_token_seconds_bucket{instance="a",job="j",model_name="m",le="10"}': "0x60",
            'vllm:time_to_first_token_seconds_bucket{instance="a",job="j",model_name="m",le="20"}': "0+5x60",
            'vllm:time_to_first_token_seconds_bucket{instance="a",job="j",model_name="m",le="+Inf"}': "0+5x60",
        },
        {"model_name": "m"},
    ),
    "TailraceSlowTokens": (
        {
            'vllm:inter_token_latency_seconds_bucket{instance="a",job="j",model_name="m",le="1"}': "0x60",
            'vllm:inter_token_latency_seconds_bucket{instance="a",job="j",model_name="m",le="2.5"}': "0+5x60",
            'vllm:inter_token_latency_seconds_bucket{instance="a",job="j",model_name="m",le="+Inf"}': "0+5x60",
        },
        {"model_name": "m"},
    ),
    "TailraceErrors": (
        {
            'tailrace:errors_total{instance="a",job="j",code="engine_died"}': "0+1x60",
            'tailrace:http_requests_total{instance="a",job="j",route="/chat/completions",status="200"}': "0+9x60",
        },
        {},
    ),
    "TailraceCacheTooSmall": (
        {
            'vllm:num_preemptions_total{instance="a",job="j",engine="0"}': "0+60x60",
            'vllm:kv_cache_usage_perc{instance="a",job="j",engine="0"}': "0.99x60",
        },
        {"engine": "0"},
    ),
    "TailraceThrottled": ({'tailrace:cpu_throttled_seconds_total{instance="a",job="j"}': "0+30x60"}, {}),
    "TailraceFewFilesLeft": (
        {
            'tailrace:process_open_fds{instance="a",job="j",process="http"}': "900x60",
            'tailrace:process_max_fds{instance="a",job="j",process="http"}': "1000x60",
        },
        {"process": "http"},
    ),
    "TailraceMemoryGrows": (
        {'tailrace:process_resident_memory_bytes{instance="a",job="j",process="engine 0"}': "500000000+5000000x300"},
        {"process": "engine 0"},
    ),
    "TailraceReplicaGone": (
        {'tailrace:cluster_replicas{instance="a",job="j",model="m",phase="gone"}': "0x20 1x40"},
        {"model": "m"},
    ),
    "TailraceModelAtMaxReplicas": (
        {
            'tailrace:cluster_replica_waiting_prompt_tokens{instance="a",job="j",model="m",replica="r"}': "0x9 3000x60",
            'tailrace:cluster_replicas{instance="a",job="j",model="m",phase="ready"}': "1x60",
            'tailrace:cluster_replicas{instance="a",job="j",model="m",phase="behind"}': "1x60",
            'tailrace:cluster_max_replicas{instance="a",job="j",model="m"}': "2x60",
        },
        {"model": "m"},
    ),
    "TailraceUnmanaged": ({'tailrace:cluster_managed{instance="a",job="j"}': "1x20 0x40"}, {}),
    "TailraceDeviceMemoryFull": (
        {
            'tailrace:device_memory_free_bytes{instance="a",job="j",worker="b:1",device="gpu0"}': "50x20 1x40",
            'tailrace:device_memory_bytes{instance="a",job="j",worker="b:1",device="gpu0"}': "100x300",
        },
        {"worker": "b:1", "device": "gpu0"},
    ),
    "TailraceDeviceHot": (
        {
            'tailrace:device_temperature_celsius{instance="a",job="j",worker="local",device="cpu"}': "60x20 86x40",
            'tailrace:device_temperature_limit_celsius{instance="a",job="j",worker="local",device="cpu"}': "87x300",
        },
        {"worker": "local", "device": "cpu"},
    ),
    "TailraceWorkerLost": (
        {
            'tailrace:engine_up{instance="a",job="j",engine="0",model_name="m"}': "1x20 0x40",
            'tailrace:link_steps_total{instance="a",job="j",engine="0",model_name="m",worker="b:1"}': "0+9x20",
        },
        {"engine": "0", "model_name": "m"},
    ),
    "TailraceLogLinesLost": ({'tailrace:log_lines_dropped_total{instance="a",job="j"}': "0x20 5x40"}, {}),
}


def quiet(values: str) -> str:
    """The same series without what sets the alert off: it stands still at its first value."""
    return f"{values.split()[0].split('+')[0].split('x')[0]}x300"


@pytest.mark.parametrize("fires", [True, False])
def test_alerts_fire_when_they_should(tmp_path: Path, fires: bool) -> None:
    assert set(FIRES) == {alert["alert"] for alert in alerts()}
    (tmp_path / "rules.yml").write_text(printed("--rules"), encoding="utf-8")
    #: Those whose first value sets them off, and are quiet with the other one.
    others = {"TailraceNotReady": "1x300", "TailraceStalled": "0x300"}
    tests = []
    for name, (inputs, labels) in FIRES.items():
        alert = next(alert for alert in alerts() if alert["alert"] == name)
        at = "4h30m" if name == "TailraceMemoryGrows" else "30m"
        if name in others and not fires:
            inputs = dict.fromkeys(inputs, others[name])
        elif name == "TailraceFewFilesLeft" and not fires:
            inputs = {series: values.replace("900", "100") for series, values in inputs.items()}
        elif not fires:
            inputs = {series: quiet(values) for series, values in inputs.items()}
        expected = {"exp_labels": {"severity": alert["labels"]["severity"], "instance": "a", "job": "j", **labels}}
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values} for series, values in inputs.items()],
                "promql_expr_test": [],
                "alert_rule_test": [
                    {"eval_time": at, "alertname": name, "exp_alerts": [expected] if fires else []},
                ],
            }
        )
    # Descriptions have figures in them; here the labels count.
    rules = yaml.safe_load(printed("--rules"))
    for rule in rules["groups"][0]["rules"]:
        rule.pop("annotations")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    given = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(given), encoding="utf-8")
    done = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
