"""scripts/setup.py: its messages, the wheel's key, the build's progress, and a build with a pip that is played."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import setup
import setup_engine
from setup_engine import Build, build_progress, build_wheel, cmake_args, cpu_identity, find_wheel
from setup_pip import SetupError, run_pip
from setup_steps import ProgressLine, Steps, clock_time

ROOT = Path(__file__).parents[3]
BUILD = Build(version="0.3.36", cpu="flags: avx2", compiler="g++ 12", user_args="", recipe="r", variables=())
SOURCE = Path("llama_cpp_python-0.3.36.tar.gz")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what setup needs, so that no test can touch the environment it runs in."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", copy / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """An empty folder to be the whole PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def run_setup(checkout: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(checkout / "scripts" / "setup.py")],
        env={"HOME": str(checkout), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- messages ---


def test_without_a_compiler_the_message_says_how_to_install_one(checkout: Path, tools: Path) -> None:
    done = run_setup(checkout, {"PATH": str(tools)})
    assert (done.returncode, done.stdout) == (1, "")
    for advice in ("no C++ compiler", "apt install build-essential", "dnf install gcc-c++", "xcode-select --install"):
        assert advice in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_named_compiler_that_is_not_there(checkout: Path, tools: Path) -> None:
    done = run_setup(checkout, {"PATH": str(tools), "CXX": "nonsense++ -m64"})
    assert done.returncode == 1
    assert "CXX names the compiler nonsense++ -m64" in done.stderr


def test_a_compiler_that_does_not_work(checkout: Path, tools: Path) -> None:
    script(tools / "c++", "echo 'licence not accepted' >&2; exit 69")
    done = run_setup(checkout, {"PATH": str(tools)})
    assert done.returncode == 1
    assert "licence not accepted" in done.stderr


def test_a_failed_download_shows_pips_output_and_a_remedy(checkout: Path, tools: Path) -> None:
    script(tools / "c++", "echo 'c++ 99'")
    lines = (checkout / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line if line.partition("==")[0] != "pip" else "pip==99.9" for line in lines]
    (checkout / "constraints.txt").write_text("\n".join(pins), encoding="utf-8")
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PATH": str(tools)}
    done = run_setup(checkout, offline)
    assert done.returncode == 1
    assert "installing pip failed. pip's last lines:" in done.stderr
    assert "No matching distribution found for pip==99.9" in done.stderr
    assert "check the network and pip's configuration" in done.stderr
    assert not (checkout / ".venv" / setup.STAMP.name).exists()


@pytest.mark.parametrize("version", [(3, 10, 14), (2, 7, 18)])
def test_an_old_python_is_refused(version: tuple[int, ...]) -> None:
    with pytest.raises(SetupError, match=r"needs Python 3\.11.*is " + ".".join(map(str, version))):
        setup.check_python(version)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 1), (4, 0, 0)])
def test_newer_pythons_are_welcome(version: tuple[int, ...]) -> None:
    setup.check_python(version)


def test_without_venv_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(SetupError, match="apt install python3-venv"):
        setup.check_python((3, 12, 0))


# --- the stamp ---


def test_a_valid_stamp_skips_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **options: object) -> None:
        raise AssertionError("setup did something")

    def describe(version: str, args: str, environment: object) -> Build:
        return dataclasses.replace(BUILD, user_args=args)

    installs: list[str] = []
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp.json")
    monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(setup, "describe_build", describe)
    monkeypatch.setattr(setup, "run_pip", never)
    monkeypatch.setattr(setup, "smoke", never)
    pulled: list[int] = []
    monkeypatch.setattr(setup, "install", lambda stamp, build, steps, **options: installs.append(build.user_args))
    monkeypatch.setattr(setup, "pull_model", lambda: pulled.append(1))
    monkeypatch.setattr(setup, "have_headers", lambda folder: True)

    def run(*words: str, **environment: str) -> list[str]:
        installs.clear()
        options = argparse.Namespace(dev="dev" in words, smoke="smoke" in words, rebuild="rebuild" in words, gpu=None)
        setup.run(options, environment)
        return list(installs)

    def stamp(build: Build, *, dev: bool) -> None:
        done = {"engine": build.key, "smoke": build.key, "cmake_args": build.user_args}
        setup.write_stamp({"key": setup.install_key(), "dev": dev, **done})

    assert run() == [""]
    stamp(BUILD, dev=False)
    assert run() == []
    assert run("smoke") == []
    assert pulled == [1], "the model may have been deleted since"
    assert run("dev") == [""]
    assert run("rebuild") == [""]
    stamp(BUILD, dev=True)
    assert run() == []
    assert run("dev") == []
    gpu = "-DGGML_CUDA=on"
    assert run(CMAKE_ARGS=gpu) == [gpu]
    stamp(dataclasses.replace(BUILD, user_args=gpu), dev=True)
    assert run() == []
    assert run(CMAKE_ARGS=gpu) == []
    assert run(CMAKE_ARGS="") == [""]
    setup.STAMP.write_text("{half", encoding="utf-8")
    assert run() == [""]


def test_the_pins_name_what_setup_needs() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert tuple(map(int, setup.pinned("pip", pins).split("."))) >= (25, 3)  # the first with --build-constraint
    assert setup.pinned(setup_engine.PACKAGE, pins)
    assert all(line.count("==") == 1 and "/" not in line and "@" not in line for line in pins.splitlines())
    with pytest.raises(SetupError, match="pins no version of nonsense"):
        setup.pinned("nonsense", pins)


# --- the key ---


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.3.37"},
        {"cpu": "flags: avx2 avx512f"},
        {"compiler": "g++ 14"},
        {"user_args": "-DGGML_CUDA=on"},
        {"recipe": ""},
        {"variables": (("CXXFLAGS", "-O1"),)},
    ],
)
def test_everything_that_changes_the_build_changes_the_key(change: dict[str, object]) -> None:
    assert dataclasses.replace(BUILD, **change).key != BUILD.key  # type: ignore[arg-type]  # fields of several types


def test_the_same_build_has_the_same_key() -> None:
    assert dataclasses.replace(BUILD).key == BUILD.key


CPUINFO = "processor: 0\nvendor_id: X\nflags\t: fpu avx2 sse\ncpu MHz: 2100.0\n\nprocessor: 1\nflags: fpu\n"


def test_the_cpu_is_known_by_its_instructions() -> None:
    same = (
        CPUINFO.replace("2100.0", "3000.0")
        .replace("fpu avx2 sse", "sse fpu avx2")
        .replace("processor: 1", "processor: 7")
    )
    assert cpu_identity(same) == cpu_identity(CPUINFO)
    assert cpu_identity(CPUINFO.replace("avx2", "avx2 amx_tile")) != cpu_identity(CPUINFO)
    assert cpu_identity(CPUINFO.replace("vendor_id: X", "vendor_id: Y")) != cpu_identity(CPUINFO)
    assert cpu_identity(None)


def test_the_wheel_cache_follows_xdg(tmp_path: Path) -> None:
    folder = setup_engine.wheel_folder(BUILD, {"XDG_CACHE_HOME": str(tmp_path)})
    assert folder == tmp_path / "tailrace" / "wheels" / BUILD.key
    assert setup_engine.wheel_folder(BUILD, {}).is_relative_to(Path.home() / ".cache")


# --- CMake's arguments ---

RECIPE = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={setup_engine.RECIPE}"


@pytest.mark.parametrize(
    ("user", "cxxflags", "expected"),
    [
        ("", "", ["-DCMAKE_CXX_FLAGS=-include /a/h.h"]),
        ("-DGGML_CUDA=on -DX='a b'", "", ["-DGGML_CUDA=on", "-DX=a b", "-DCMAKE_CXX_FLAGS=-include /a/h.h"]),
        ("", "-O1 -g", ["-DCMAKE_CXX_FLAGS=-include /a/h.h -O1 -g"]),
        ("-DCMAKE_CXX_FLAGS:STRING='-O1 -g' -DX=1", "-O0", ["-DX=1", "-DCMAKE_CXX_FLAGS=-include /a/h.h -O1 -g"]),
    ],
)
def test_the_header_joins_the_users_own_flags(user: str, cxxflags: str, expected: list[str]) -> None:
    assert shlex.split(cmake_args(user, Path("/a/h.h"), cxxflags)) == [RECIPE, *expected]


def test_a_header_in_a_folder_with_a_space_stays_one_word() -> None:
    _, arg = shlex.split(cmake_args("", Path("/a b/h.h")))
    assert shlex.split(arg.removeprefix("-DCMAKE_CXX_FLAGS=")) == ["-include", "/a b/h.h"]


def test_without_a_header_the_users_flags_are_untouched() -> None:
    assert shlex.split(cmake_args("-DX='a b'", None, "-O1")) == [RECIPE, "-DX=a b"]


def test_the_users_own_recipe_wins() -> None:
    theirs = "-DCMAKE_PROJECT_llama_cpp_INCLUDE=/their.cmake"
    assert shlex.split(cmake_args(theirs, None)) == [RECIPE, theirs], "the last of several definitions counts"


# --- progress ---


@pytest.mark.parametrize(
    ("line", "steps"),
    [
        ("  [25/193] /usr/bin/g++ -DGGML_BUILD -c x.cpp\n", (25, 193)),
        ("[193/193] Linking\n", (193, 193)),
        ("  [ 25%] Building CXX object ggml.o\n", (25, 100)),
        ("[100%] Built target llama\n", (100, 100)),
        ("  -- Performing Test [1/2]\n", None),
        ("  int a[25/193];\n", None),
        ("     ━━━━━ 76.6/76.6 MB 545.2 MB/s\n", None),
        ("\n", None),
    ],
)
def test_progress_in_the_builds_output(line: str, steps: tuple[int, int] | None) -> None:
    assert build_progress(line) == steps


def progress_of(*, terminal: bool) -> list[str]:
    written: list[str] = []
    seconds = iter(range(0, 10_000, 10))
    line = ProgressLine(terminal=terminal, write=written.append, clock=lambda: next(seconds))
    for done in range(1, 21):
        line.show(done, 20)
    line.end()
    return written


def test_on_a_terminal_one_line_is_redrawn() -> None:
    written = progress_of(terminal=True)
    assert len(written) == 21
    assert all(text.startswith("\r") and "\n" not in text for text in written[:-1])
    assert "100%  3:10  file 20 of 20" in written[-2]
    assert " 50%  1:30  file 10 of 20, about 1:30 min left" in written[9]
    assert "left" not in written[0] + written[-2]
    assert written[-1] == "\n"


def test_elsewhere_every_tenth_is_a_line() -> None:
    written = progress_of(terminal=False)
    assert written[0] == "       10%  0:10  file 2 of 20, about 1:30 min left\n"
    assert [text.split("%")[0].strip() for text in written] == [str(tenth) for tenth in range(10, 101, 10)]


def test_a_build_without_progress_writes_nothing() -> None:
    written: list[str] = []
    ProgressLine(terminal=True, write=written.append, clock=lambda: 0.0).end()
    assert written == []


def test_each_step_has_its_number_and_its_time() -> None:
    written: list[str] = []
    seconds = iter((0.0, 1.0, 8.0, 8.0, 133.0, 133.4))
    steps = Steps(2, write=written.append, clock=lambda: next(seconds))
    with steps.step("packages"):
        written.append("within\n")
    with pytest.raises(SetupError), steps.step("kernels"):
        raise SetupError("no")
    with steps.step("page"):
        pass
    assert written == [
        "[1/2] packages\n",
        "within\n",
        "      done in 7 s\n",
        "[2/2] kernels\n",
        "[3/3] page\n",
        "      done in 0 s\n",
    ]


def test_without_a_step_there_is_nothing_to_say() -> None:
    written: list[str] = []
    Steps(3, write=written.append, clock=lambda: 0.0).finish()
    assert written == []


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (125, "2:05 min")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert clock_time(seconds) == words


# --- building ---

#: Plays `python -m pip wheel ...`: two steps, and a wheel that holds the CMAKE_ARGS it was given.
PIP = """
while [ "$1" != --wheel-dir ]; do shift; done
echo '  [1/2] g++ one'
echo '  [2/2] g++ two'
printf %s "$CMAKE_ARGS" > "$2/llama_cpp_python-0.3.36-py3-none-any.whl"
"""


def test_a_build_leaves_the_wheel_and_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "wheels" / "key"
    assert find_wheel(folder) is None
    python = script(tmp_path / "python", PIP)
    build = dataclasses.replace(BUILD, user_args="-DX=1")
    wheel = build_wheel(build, SOURCE, folder, python, tmp_path / "constraints.txt", dict(os.environ))
    assert find_wheel(folder) == wheel
    assert "-DX=1" in wheel.read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["build.log", wheel.name]
    assert "[2/2] g++ two" in (folder / "build.log").read_text(encoding="utf-8")
    assert [line.split("file ")[1][:6] for line in capsys.readouterr().out.splitlines()] == ["1 of 2", "2 of 2"]


def test_a_failed_build_leaves_its_log_and_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    python = script(tmp_path / "python", "echo 'fatal error: no input' >&2; exit 1")
    with pytest.raises(SetupError) as caught:
        build_wheel(BUILD, SOURCE, folder, python, tmp_path / "constraints.txt", dict(os.environ))
    assert "compiling llama.cpp failed" in str(caught.value)
    assert "    fatal error: no input" in str(caught.value)
    assert str(folder / "build.log") in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["build.log"]


def test_a_failed_compile_shows_the_compilers_errors(tmp_path: Path) -> None:
    lines = [
        "[1/2] c++ one",
        "ggml/x.cpp:12:3: error: 'LayerSettingEXT' is not a member of 'vk'",
        "*** CMake build failed",
    ]
    python = script(tmp_path / "python", "\n".join(f'echo "{line}"' for line in lines) + "\nexit 1")
    with pytest.raises(SetupError) as caught:
        build_wheel(BUILD, SOURCE, tmp_path / "key", python, tmp_path / "constraints.txt", dict(os.environ))
    told = str(caught.value)
    assert told.startswith("compiling llama.cpp failed:\n    ggml/x.cpp:12:3: error: 'LayerSettingEXT'")
    assert "check the network" not in told


def test_a_build_inside_of_the_build_is_no_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ("[30/300] c++", "[1/2] inner", "[2/2] inner", "[150/300] c++")
    python = script(tmp_path / "python", "\n".join(f'echo "{step}"' for step in steps) + "\nexit 1")
    with pytest.raises(SetupError):
        build_wheel(BUILD, SOURCE, tmp_path / "key", python, tmp_path / "constraints.txt", dict(os.environ))
    shown = capsys.readouterr().out
    assert "file 150 of 300" in shown
    assert "of 2" not in shown


def test_a_build_without_a_wheel_is_a_failure(tmp_path: Path) -> None:
    python = script(tmp_path / "python", "exit 0")
    with pytest.raises(SetupError, match="left no wheel"):
        build_wheel(BUILD, SOURCE, tmp_path / "key", python, tmp_path / "constraints.txt", dict(os.environ))


def test_pip_output_that_is_not_utf8_is_no_failure(tmp_path: Path) -> None:
    seen: list[str] = []
    python = script(tmp_path / "python", "printf '\\377 caf\\n'")
    run_pip(python, [], "playing", environment=dict(os.environ), on_line=seen.append)
    assert seen == ["\ufffd caf\n"]


@pytest.mark.parametrize(("end", "how"), [("kill -SEGV $$", "killed by SIGSEGV"), ("exit 4", "exit code 4")])
def test_a_wrongly_compiled_engine_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, how: str
) -> None:
    monkeypatch.setattr(setup, "PYTHON", script(tmp_path / "python", f"echo 'last words' >&2; {end}"))
    with pytest.raises(SetupError) as caught:
        setup.smoke([], BUILD, tmp_path)
    for words in (how, "last words", "setup.py --rebuild", "GGML_NATIVE=OFF", str(tmp_path / "build.log"), "g++ 12"):
        assert words in str(caught.value)


def test_a_missing_model_is_not_blamed_on_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
    monkeypatch.setenv("TAILRACE_MODELS", str(tmp_path))
    with pytest.raises(SetupError) as caught:
        setup.smoke([setup.SMOKE_MODEL], BUILD, tmp_path)
    assert f"tailrace pull {setup.SMOKE_MODEL}" in str(caught.value)
    assert "--rebuild" not in str(caught.value)


# --- the header ---


def test_the_header_compiles_with_the_compiler_of_this_machine(tmp_path: Path) -> None:
    source = tmp_path / "x.cpp"
    source.write_text("int main() { return 0; }\n", encoding="utf-8")
    include = ["-include", str(setup_engine.HEADER)] if setup_engine.header_here() else []
    compiler = setup_engine.find_compiler(os.environ)
    command = [*compiler, "-O3", "-march=native", *include, str(source), "-o", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
