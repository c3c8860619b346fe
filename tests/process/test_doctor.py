"""``tailrace doctor`` beside a real server: the plan is applied, until a user changes a thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from servers import serving
from tailrace.diagnosis.catalogue import CATALOGUE
from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.native_libs.tiers import TIERS
from tailrace.engine.sampling.logits_ops.native.build import LOGITS_TIERS


def doctor(
    folder: Path, *arguments: str, state: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("tailrace")), "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(state or folder), **variables},
        check=False,
    )


def in_force(found: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The processes of the one server that the diagnosis is of, by name."""
    (server,) = json.loads(found.stdout)["servers"]
    return {process["process"]: process for process in server["processes"]}


def test_what_is_in_force_is_compared_with_the_plan(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    assert len(cpus) == 2, "binding can't be seen on one CPU"
    with serving("--cpus", ",".join(map(str, cpus)), "--http-cpus", str(cpus[1])) as server:
        look = ("--json", "--no-bandwidth", "--port", str(server.port))
        planned = doctor(tmp_path, *look, state=server.temporary)
        assert planned.returncode == 0, planned.stdout + planned.stderr
        processes = in_force(planned)
        assert {name: process["problems"] for name, process in processes.items()} == {"http": [], "engine": []}
        (found,) = json.loads(planned.stdout)["servers"]
        assert found["findings"]
        assert {each["code"] for each in found["findings"]} <= set(CATALOGUE), "as /stats has them"
        assert f"on CPUs {cpus[1]}" in processes["http"]["found"]
        assert f"on CPUs {cpus[0]}" in processes["engine"]["found"]

        for task in Path(f"/proc/{processes['engine']['pid']}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cpus[0]})
        os.sched_setaffinity(processes["http"]["pid"], set(cpus))
        changed = doctor(tmp_path, *look, state=server.temporary)
        assert changed.returncode == 1
        assert [len(process["problems"]) for process in in_force(changed).values()] == [1, 1]
        shown = doctor(tmp_path, "--no-bandwidth", "--port", str(server.port), state=server.temporary)
        assert shown.returncode == 1
        assert shown.stdout.count("differs") == 2
        assert any(f"{code} " in shown.stdout for code in CATALOGUE)


def test_where_all_cpus_compute_the_main_thread_and_the_http_process_keep_apart(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with serving("--threads", str(len(cpus))) as server:
        # Grammars have threads of their own, which are made now.
        form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}, "strict": True}}
        with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="-") as client:
            client.chat.completions.create(
                model="smollm2-135m",
                messages=[{"role": "user", "content": "A number"}],
                response_format=form,
                max_tokens=8,
            )
        look = doctor(tmp_path, "--json", "--no-bandwidth", "--port", str(server.port), state=server.temporary)
        processes = in_force(look)
        assert {name: process["problems"] for name, process in processes.items()} == {"http": [], "engine": []}
        assert processes["engine"]["planned"] == f"anywhere, main thread on CPU {cpus[0]}"
        # Every other thread of the engine may run anywhere, whichever thread made it.
        tasks = Path(f"/proc/{processes['engine']['pid']}/task").iterdir()
        places = [os.sched_getaffinity(int(task.name)) for task in tasks]
        assert places.count({cpus[0]}) == 1
        assert places.count(set(cpus)) == len(places) - 1
        assert os.sched_getaffinity(processes["http"]["pid"]) == set(cpus[1:])


def test_without_a_server_it_is_about_the_machine(tmp_path: Path) -> None:
    found = doctor(tmp_path, "--threads", "1")
    assert found.returncode == 0
    for title in ("Machine", "Limits", "Plan"):
        assert f"\n{title}\n" in found.stdout
    assert "reads memory" in found.stdout
    assert "threads is set" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--cpus", "60000"), "cpus is 60000, but this machine has no CPU 60000"),
        (("--port", "1"), "port is 1, but no server of yours runs there"),
        (("--pin", "off", "--cpus", "0"), "cpus is 0, but pin is off"),
        (("--cpus", "all"), "cpus (flag) can't be 'all'"),
    ],
)
def test_a_broken_set_up_exits_with_status_2(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    refused = doctor(tmp_path, "--no-bandwidth", *arguments)
    assert refused.returncode == 2
    assert says in refused.stderr


def test_proofs_are_repeated_where_the_cpu_runs_kernels(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json", "--no-bandwidth", "--prove")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    used = [each for each in (*found["kernels"]["libraries"], *found["logits_ops"]) if each["state"] == "used"]
    assert [each["tier"] for each in used] == [
        *cpu_tiers()[:1],
        *[tier for tier in LOGITS_TIERS if TIERS[tier].supported][:1],
    ]
    assert all(each["reason"].endswith("proved again now") for each in used)


def test_wrong_results_are_exit_status_1(tmp_path: Path) -> None:
    """A proof that finds something wrong, in a command that is told to find no servers."""
    program = (
        "import sys\n"
        "import tailrace.cli.doctor\n"
        "from tailrace.cli import app, doctor_facts\n"
        "sys.modules['tailrace.cli.doctor'].find_servers = list\n"
        "wrong = doctor_facts.LibraryReport("
        "name='kernels', tier='amx', state='wrong', reason='computes Q4_0 wrongly')\n"
        "doctor_facts._logits_ops = lambda *_, **__: [wrong]\n"
        "app.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", "--no-bandwidth"],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "computes Q4_0 wrongly" in done.stdout


def test_the_parts_of_a_model_are_shown_with_the_kernels_that_compute_them(tmp_path: Path) -> None:
    path = tmp_path / "hybrid.gguf"
    write_model(path, "hybrid", SHAPES["tiny-qwen35-mtp"], byte_vocabulary())
    found: dict[str, Any] = {}
    for choice in ("on", "off"):
        done = doctor(tmp_path, str(path), "--json", "--no-bandwidth", TAILRACE_KERNELS=choice)
        # Its status is that of servers that run here, too.
        found[choice] = json.loads(done.stdout)["model"]["parts"]
        assert found[choice]["predicts"]
        assert found[choice]["cache_types"] == ["f16", "f16"]
    on, off = found["on"], found["off"]
    assert off["attention"] == {"own": 0, "upstream": 0}, "nothing counts llama.cpp's own kernels"
    assert sum(each["tensors"] for each in on["products"]) == sum(each["tensors"] for each in off["products"])
    assert not [each for each in off["products"] if each["kernels"].startswith("own")]
    if cpu_tiers():
        largest = max(on["products"], key=lambda each: int(each["bytes"]))
        assert (largest["format"], largest["kernels"]) == ("Q4_0", "own kernels, repacked")
        assert on["attention"]["own"] > 0
        assert on["recurrent"]


def test_a_model_that_cannot_be_loaded_is_an_error_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    write_model(path, "broken", SHAPES["tiny-qwen35"], byte_vocabulary())
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"blk.0.ssm_dt.bias", b"blk.0.ssm_xx.bias"))
    found = doctor(tmp_path, str(path), "--no-bandwidth")
    assert found.returncode == 1
    assert "can't be loaded to look at its parts" in found.stderr
