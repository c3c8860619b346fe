"""The files in ``deploy/`` name routes, settings, files and times that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import setup_page
from tailrace.child import EXIT_CONFIGURATION
from tailrace.server.app import endpoints
from tailrace.server.app_state import AppState
from tailrace.server.middleware import PUBLIC
from tailrace.settings import FIELDS, Settings
from tailrace.supervisor.engine_group import UNLOAD_GRACE_SECONDS
from tailrace.supervisor.supervisor import STOP_GRACE_SECONDS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
DEFAULTS = Settings()


def settings_named(text: str) -> set[str]:
    return {name.lower() for name in re.findall(r"TAILRACE_([A-Z_]+)", text)} - {"models"}


@pytest.mark.parametrize("file", ["tailrace.service", "Containerfile", "kubernetes.yaml"])
def test_every_named_setting_exists(file: str) -> None:
    named = settings_named((DEPLOY / file).read_text(encoding="utf-8"))
    assert named
    assert named <= set(FIELDS)


# systemd


def unit() -> dict[str, list[str]]:
    """The service's settings; a key may repeat."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "tailrace.service").read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_stops_and_restarts_as_the_server_does() -> None:
    service = unit()
    assert service["Type"] == ["notify"]
    assert int(service["TimeoutStopSec"][0]) > DEFAULTS.drain_seconds + STOP_GRACE_SECONDS + UNLOAD_GRACE_SECONDS
    assert int(service["WatchdogSec"][0]) > DEFAULTS.hang_seconds, "the supervisor replaces a hung child first"
    assert service["RestartPreventExitStatus"] == [str(EXIT_CONFIGURATION)]
    assert service["User"] == ["tailrace"]
    program, verb = service["ExecStart"][0].split()
    assert (program, verb) == ("/opt/tailrace/.venv/bin/tailrace", "serve")


def test_the_folders_of_the_unit_are_those_that_it_may_write() -> None:
    service = unit()
    folders = dict(part.split("=") for line in service["Environment"] for part in line.split())
    assert folders["XDG_CONFIG_HOME"] == "/etc"
    assert folders["XDG_STATE_HOME"] == "/var/lib"
    assert folders["XDG_CACHE_HOME"] == "/var/cache"
    for kind in ("Configuration", "State", "Cache"):
        assert service[f"{kind}Directory"] == ["tailrace"]
    assert service["ProtectSystem"] == ["strict"]


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Where systemd is installed, it reads the file; elsewhere the tests above have to do."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        assert "Service" in (DEPLOY / "tailrace.service").read_text(encoding="utf-8")
        return
    # The programs aren't where the unit has them.
    text = (DEPLOY / "tailrace.service").read_text(encoding="utf-8")
    text = text.replace("/opt/tailrace/.venv/bin/tailrace", sys.executable)
    file = tmp_path / "tailrace.service"
    file.write_text(text, encoding="utf-8")
    shown = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False)
    assert [line for line in shown.stderr.splitlines() if "tailrace.service" in line] == []


# The image


def steps() -> list[tuple[str, str]]:
    """The image's instructions: name and arguments, continued lines joined."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(words[0], words[1]) for line in lines if (words := line.split(maxsplit=1)) and line[0] != "#"]


def arguments(name: str) -> list[str]:
    return [value for step, value in steps() if step == name]


def test_the_image_runs_the_server_as_a_plain_user() -> None:
    order = [name for name, _ in steps()]
    assert order.index("USER") > max(index for index, name in enumerate(order) if name == "RUN")
    assert arguments("USER") == ["10001:10001"]
    assert arguments("CMD") == ['["serve"]']
    assert arguments("EXPOSE") == [str(DEFAULTS.port)]
    assert f":{DEFAULTS.port}/health/ready" in arguments("HEALTHCHECK")[0]


def test_the_image_has_all_that_the_set_up_and_the_server_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied is enough to describe the build, and to run the command, without the rest of the checkout."""
    for value in arguments("COPY"):
        *sources, target = shlex.split(value)
        for source in sources:
            path = ROOT / source
            if path.is_dir():
                shutil.copytree(path, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tmp_path / target).mkdir(exist_ok=True)
                shutil.copy(path, tmp_path / target)
    for name in re.findall(r'ROOT / "([^"]+)"', (tmp_path / "scripts" / "setup.py").read_text(encoding="utf-8")):
        assert name == ".venv" or (tmp_path / name).exists(), name
    key = setup_page.sources_key()
    monkeypatch.setattr(setup_page, "WEB", tmp_path / "web")
    assert setup_page.sources_key() == key, "the page would be another one"
    assert (tmp_path / "web" / ".npmrc").is_file()
    project = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    for name in re.findall(r'(?:readme|license-files) = \[?"([^"]+)"', project):
        assert (tmp_path / name).is_file(), name
    shown = subprocess.run(
        [sys.executable, "-c", "from tailrace.cli.app import main; main()", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "serve" in shown.stdout


def test_the_image_is_set_up_as_the_checkout_is() -> None:
    (setup,) = [value for value in arguments("RUN") if "setup" in value]
    assert "python3 scripts/setup.py" in setup
    assert "scripts/setup.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
    # Whatever CPU builds it.
    assert any("-DGGML_NATIVE=OFF" in value for value in arguments("ARG"))


# Kubernetes


def manifest(kind: str) -> Any:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def test_the_probes_are_routes_that_need_no_key() -> None:
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    known = {endpoint.path for endpoint in endpoints(AppState.of_one(DEFAULTS, "m")) if endpoint.method == "GET"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": DEFAULTS.port}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert path in known
        assert path in PUBLIC
        assert container[probe]["httpGet"]["port"] in ports


def test_a_pod_has_the_time_to_drain() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = pause + DEFAULTS.drain_seconds + STOP_GRACE_SECONDS + UNLOAD_GRACE_SECONDS
    assert pod["terminationGracePeriodSeconds"] > needed


def test_a_pod_has_no_privileges_and_writes_only_into_volumes() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert manifest("Service")["spec"]["selector"] == manifest("Deployment")["spec"]["selector"]["matchLabels"]
    environment = {entry["name"] for entry in pod["containers"][0]["env"]}
    assert environment == {"TAILRACE_API_KEY"}
    assert manifest("Secret")["stringData"].keys() == {"api-key"}
