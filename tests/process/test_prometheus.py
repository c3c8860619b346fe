"""A real Prometheus reads a real server, a cluster's ingress, and made-up devices that no test's machine has.

Each query of the dashboard and each alert's expression returns data.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import yaml

from ingress_process import SECRET, ingress
from made_devices import metrics_server, placed_metrics
from prometheus_tools import Prometheus, prometheus
from servers import serving, wait_for
from tailrace.cluster.ingress.orders import ClusterModel

_FILES = resources.files("tailrace.observe").joinpath("monitoring")
DASHBOARD = json.loads(_FILES.joinpath("grafana_dashboard.json").read_text(encoding="utf-8"))
RULES = _FILES.joinpath("prometheus_rules.yml").read_text(encoding="utf-8")
#: With the panel's number, as titles may come twice.
QUERIES = {
    f"{panel['id']} {panel['title']} {target['refId']}": str(target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
ALERTS = {rule["alert"]: str(rule["expr"]) for rule in yaml.safe_load(RULES)["groups"][0]["rules"]}


def without_variables(expression: str) -> str:
    """The query as Grafana sends it, for all servers and models."""
    for name, value in {"$__rate_interval": "30s", "$model_name": ".*", "$instance": ".*"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def ask(port: int, **fields: Any) -> None:
    body = {"messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 12, **fields}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()
    except urllib.error.HTTPError as error:
        error.read()


def load(port: int, stop: threading.Event) -> None:
    """A little of everything, so that no ratio is of nothing."""
    number = 0
    while not stop.is_set():
        number += 1
        ask(port, n=2)
        # It repeats itself, so drafts are made.
        ask(port, messages=[{"role": "user", "content": f"{number}. " + "one two three " * 30}], max_tokens=40)
        ask(port, response_format={"type": "json_object"})
        ask(port, max_tokens="many")


@pytest.fixture(scope="module")
def running() -> Iterator[Prometheus]:
    """It reads a server, an ingress in front of this server and another one, and the metrics of made-up devices."""
    secret = {"TAILRACE_CLUSTER_SECRET": SECRET}
    with (
        serving("--ctx", "2048", environment=secret) as server,
        serving("--ctx", "2048", environment=secret) as other,
        ingress([server.port, other.port]) as front,
        metrics_server(placed_metrics()) as placed,
        prometheus([server.port, front.port, placed], RULES) as found,
    ):
        front.serve(ClusterModel(name=model_of(server.port), max_replicas=2))
        stop = threading.Event()
        thread = threading.Thread(target=load, args=(front.port, stop))
        thread.start()
        try:
            # The rate of every counter needs two samples, and each kind of request has to have ended between them.
            wait_for("samples", lambda: len(found.query("count_over_time(tailrace:ready[1m]) > 12")) == 4, 120)
            yield found
        finally:
            stop.set()
            thread.join(60)


def model_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60) as response:
        return str(json.load(response)["data"][0]["id"])


def test_all_are_read_without_an_error(running: Prometheus) -> None:
    targets = running.get("targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 3
    # Units and texts have arrived as well.
    (metadata,) = running.get("metadata", metric="vllm:inter_token_latency_seconds").values()
    assert {each["type"] for each in metadata} == {"histogram"}


def test_the_ingress_has_the_series_of_the_server_with_labels_of_its_replicas(running: Prometheus) -> None:
    for series in ("vllm:num_requests_running", "tailrace:process_cpu_seconds_total", "llamacpp:requests_processing"):
        alone = running.query(f'count(count by (__name__, process) ({series}{{replica=""}}))')
        for replica in ("r0", "r1"):
            found = running.query(f'count(count by (__name__, process) ({series}{{replica="{replica}",model!=""}}))')
            assert found[0]["value"][1] == alone[0]["value"][1]


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_the_dashboard_returns_numbers(running: Prometheus, name: str) -> None:
    expression = without_variables(QUERIES[name])
    wait_for(f"data of {expression}", lambda: any(value != "NaN" for value in values(running, expression)), 60)


def values(running: Prometheus, expression: str) -> list[str]:
    return [sample["value"][1] for sample in running.query(expression)]


@pytest.mark.parametrize("name", ALERTS)
def test_both_sides_of_an_alert_have_data(running: Prometheus, name: str) -> None:
    """An alert whose series don't exist never fires. A healthy server sets off none."""
    compared = re.sub(r"(==|>|<) ?(bool )?[\d.e]+", r"\1 bool \g<0>", ALERTS[name])
    expression = re.sub(r"bool (==|>|<) ?", "bool ", compared)
    if name == "TailraceMemoryGrows":
        expression = "delta(tailrace:process_resident_memory_bytes[30s]) > bool 0"
    expression = re.sub(r"\[(\d+)[mh]\]", "[30s]", expression)
    # With "bool", what stands behind "unless" has data always, and would leave nothing.
    for part in re.split(r" unless on \([^)]*\) ", expression):
        wait_for(f"data of {part}", lambda part=part: bool(running.query(part)), 60)  # type: ignore[misc]  # no type for the default


def test_all_rules_are_evaluated(running: Prometheus) -> None:
    (group,) = running.get("rules")["groups"]
    assert {rule["name"] for rule in group["rules"]} == set(ALERTS)
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    firing = {rule["name"] for rule in group["rules"] if rule["state"] == "firing"}
    # A busy machine may be slow, or have a quota.
    assert firing <= {"TailraceSlowFirstToken", "TailraceSlowTokens", "TailraceThrottled"}


def test_grafana_s_variables_have_values(running: Prometheus) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((\S+), (\w+)\)", variable["definition"])
        assert found is not None
        assert running.query(f"count by ({found[2]}) ({found[1]})")
