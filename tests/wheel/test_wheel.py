"""The wheel in ``dist/``: what is in it, and that it installs and serves where there is no compiler."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from debian_root import DebianRoot
from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.native_libs.tiers import TIERS, TierName

ROOT = Path(__file__).parents[2]
_LISTENS = re.compile(r"tailrace listens on (\S+)")
#: For pip's downloads and the first proof of the kernels, on a slow machine.
PATIENCE = 600
TIERS_OF_WHEEL: tuple[TierName, ...] = ("amx", "avx512-vnni", "avx2-vnni", "avx2")


@pytest.fixture(scope="module")
def wheel() -> Path:
    (found,) = (ROOT / "dist").glob("tailrace-*.whl")
    return found


@pytest.fixture(scope="module")
def root(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> DebianRoot:
    """A root with the wheel installed by ``pip install``, and with nothing that compiles."""
    made = DebianRoot(tmp_path_factory.mktemp("debian") / "root")
    shutil.copy(wheel, made.folder / "root")
    for tool in ("gcc", "cc", "c++", "clang", "cmake", "ninja", "make"):
        assert not (made.folder / "usr" / "bin" / tool).exists()
    run(made, "python3", "-m", "venv", "/root/venv")
    run(made, "/root/venv/bin/pip", "install", "--quiet", f"/root/{wheel.name}")
    return made


def run(root: DebianRoot, *words: str, cpuinfo: Path | None = None) -> str:
    """Run a command inside; its output."""
    command = root.command(*words, cpuinfo=cpuinfo)
    done = subprocess.run(
        command, env=dict(root.environment()), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def avx2_only(tmp_path: Path) -> Path:
    """The /proc/cpuinfo of a CPU like this one that has no more than AVX2."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    kept = tmp_path / "cpuinfo"
    kept.write_text(re.sub(r" (avx512|avx_vnni|amx_|avx10)\w*", "", text), encoding="utf-8")
    return kept


def test_the_wheel_has_each_tier_the_page_and_the_licences(wheel: Path) -> None:
    assert re.fullmatch(r"tailrace-.*-py3-none-manylinux_2_\d+_x86_64(\.manylinux\w+)*\.whl", wheel.name)
    with ZipFile(wheel) as opened:
        names = set(opened.namelist())
        record = json.loads(opened.read("tailrace/bundled/bundle.json"))
        (metadata,) = (name for name in names if re.fullmatch(r"tailrace-[^/]*\.dist-info/METADATA", name))
        requires = opened.read(metadata).decode()
    assert tuple(record["tiers"]) == TIERS_OF_WHEEL
    llama = "tailrace/bundled/packages/llama_cpp"
    for tier in TIERS_OF_WHEEL:
        assert f"{llama}/lib/{tier}/libggml-cpu.so" in names
        assert f"tailrace/bundled/libraries/kernels-{tier}.so" in names
    for name in ("ggml-cpu", "ggml-base", "ggml-rpc", "ggml", "llama"):
        assert f"{llama}/lib/lib{name}.so" in names
    for name in ("logits-ops-avx512", "logits-ops-avx2", "ggml-layout-any"):
        assert f"tailrace/bundled/libraries/{name}.so" in names
    assert "tailrace/server/page/built/index.html" in names
    assert {"tailrace/bundled/licences/llama.cpp.txt", "tailrace/bundled/licences/libgomp.txt"} <= names
    assert any(name.endswith("licenses/LICENSE.md") and "llama_cpp_python" in name for name in names)
    assert any(re.match(r"tailrace\.libs/libgomp", name) for name in names), "OpenMP isn't part of each Linux"
    assert "Requires-Dist: llama" not in requires
    assert "Requires-Dist: numpy" in requires


@pytest.mark.parametrize(
    ("library", "forbidden"),
    [
        # Without AVX there are the lower halves of registers alone.
        ("packages/llama_cpp/lib/libggml-cpu.so", ("%ymm", "%zmm")),
        ("packages/llama_cpp/lib/libggml-base.so", ("%ymm", "%zmm")),
        ("packages/llama_cpp/lib/libllama.so", ("%ymm", "%zmm")),
        ("packages/llama_cpp/lib/avx2/libggml-cpu.so", ("%zmm", "vpdpbusd")),
        ("packages/llama_cpp/lib/avx2-vnni/libggml-cpu.so", ("%zmm",)),
        ("libraries/kernels-avx2.so", ("%zmm", "vpdpbusd")),
        ("libraries/kernels-avx2-vnni.so", ("%zmm",)),
        ("libraries/logits-ops-avx2.so", ("%zmm",)),
        ("packages/llama_cpp/lib/avx512-vnni/libggml-cpu.so", ("tdpb",)),
        ("libraries/kernels-avx512-vnni.so", ("tdpb",)),
    ],
)
def test_no_library_has_instructions_above_its_tier(
    wheel: Path, tmp_path: Path, library: str, forbidden: tuple[str, ...]
) -> None:
    with ZipFile(wheel) as opened:
        file = opened.extract(f"tailrace/bundled/{library}", tmp_path)
    done = subprocess.run(["objdump", "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=True)
    assert "ret" in done.stdout
    assert [word for word in forbidden if word in done.stdout] == []


def test_doctor_shows_the_fastest_tier_of_this_cpu(root: DebianRoot) -> None:
    shown = json.loads(run(root, "/root/venv/bin/tailrace", "doctor", "--json"))
    used = [library["tier"] for library in shown["kernels"]["libraries"] if library["state"] == "used"]
    assert used == [name for name in TIERS_OF_WHEEL if TIERS[name].supported][:1] == cpu_tiers()[:1]


def test_a_cpu_without_avx512_gets_avx2(root: DebianRoot, avx2_only: Path) -> None:
    shown = json.loads(run(root, "/root/venv/bin/tailrace", "doctor", "--json", cpuinfo=avx2_only))
    assert [each["tier"] for each in shown["kernels"]["libraries"] if each["state"] == "used"] == ["avx2"]


@pytest.fixture
def served(root: DebianRoot, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of ``tailrace serve`` inside, which fetches the starter model the first time."""
    cpuinfo = request.getfixturevalue("avx2_only") if request.param == "avx2" else None
    command = root.command("/root/venv/bin/tailrace", "serve", "--port", "0", cpuinfo=cpuinfo)
    with subprocess.Popen(command, env=dict(root.environment()), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield next(found[1] for line in server.stdout if (found := _LISTENS.search(line)))
        finally:
            server.terminate()


@pytest.mark.parametrize("served", ["this CPU", "avx2"], indirect=True)
def test_it_serves_the_starter_model_and_the_page(served: str, request: pytest.FixtureRequest) -> None:
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8, "temperature": 0}
    asked = urllib.request.Request(
        f"{served}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE) as response:
        reply = json.load(response)
    assert reply["usage"]["completion_tokens"] >= 1
    page = urllib.request.Request(f"{served}/", headers={"Accept": "text/html"})
    with urllib.request.urlopen(page, timeout=PATIENCE) as response:
        assert "text/html" in response.headers["Content-Type"]
