"""Owns the cache of llama.cpp wheels, each compiled for one kind of CPU, and makes the one for this machine.

llama.cpp never comes from pip's own cache of built wheels. That cache knows neither CPU nor compiler flags, so a home
directory shared between machines would hand out a wheel whose instructions the other CPU lacks. The key here has both.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from setup_gpu import TOOLKIT_VARIABLE
from setup_pip import SetupError, run_pip
from setup_steps import ProgressLine, write_now

PACKAGE = "llama-cpp-python"
_SCRIPTS = Path(__file__).resolve().parent
HEADER = _SCRIPTS / "amx_tile_config.h"
#: What CMake reads of ours: what is compiled, and how. The second makes a library for each CPU tier, for a wheel.
RECIPE = _SCRIPTS / "llama_build.cmake"
CPU_TIERS = _SCRIPTS / "llama_cpu_tiers.cmake"
#: Variables that change what a compiler makes of the same source.
BUILD_VARIABLES = (
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS"),
    *("CUDACXX", "CUDAFLAGS", "CUDAARCHS", "HIPCXX", TOOLKIT_VARIABLE),
)
#: The lines of /proc/cpuinfo that decide which instructions there are. The others move (MHz) or count cores.
CPU_LINES = frozenset({"vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part", "isa"})

_NINJA_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]\s")
_MAKE_STEP = re.compile(r"^\s*\[\s*(\d+)%\]\s")
_COMPILE_ERROR = re.compile(r":\d+(:\d+)?: (fatal )?error:|CMake Error|nvcc fatal|: fatal error: |\bKilled\b")
_SHOWN_ERRORS = 5
_CXX_FLAGS = re.compile(r"-DCMAKE_CXX_FLAGS(?::\w+)?=(.*)", re.DOTALL)


def find_compiler(environment: Mapping[str, str]) -> list[str]:
    """The command of the C++ compiler that CMake will choose. Raises SetupError when there is none."""
    path = environment.get("PATH")
    named = environment.get("CXX")
    if named:
        command = shlex.split(named)
        if shutil.which(command[0], path=path) is None:
            raise SetupError(f"CXX names the compiler {named}, which isn't there.\nCorrect CXX or unset it.")
        return command
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name, path=path) is not None:
            return [name]
    raise SetupError(
        "llama.cpp is compiled for this machine's CPU, and there is no C++ compiler here.\n"
        "  Debian, Ubuntu: sudo apt install build-essential\n"
        "  Fedora:         sudo dnf install gcc-c++ make\n"
        "  macOS:          xcode-select --install"
    )


def compiler_version(command: Sequence[str]) -> str:
    """What the compiler says of itself. Raises SetupError when it can't be run."""
    shown = " ".join(command)
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SetupError(f"the C++ compiler {shown} can't be run: {error}\nInstall it again.") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise SetupError(f"the C++ compiler {shown} doesn't work:\n{words}\nInstall it again.")
    return done.stdout.strip()


def cpu_identity(cpuinfo: str | None) -> str:
    """Which instructions a build for this CPU may use. ``cpuinfo`` is the text of /proc/cpuinfo, None without one."""
    if cpuinfo is None:
        return f"{platform.machine()} {platform.processor()}"
    kept = [platform.machine()]
    for line in cpuinfo.split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        if name.strip() in CPU_LINES:
            kept.append(f"{name.strip()}: {' '.join(sorted(value.split()))}")
    return "\n".join(kept)


def read_cpuinfo() -> str | None:
    """The text of /proc/cpuinfo; None on a system without it."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def cmake_args(user: str, header: Path | None, cxxflags: str = "") -> str:
    """The user's CMAKE_ARGS behind ours, with ``header`` included into every C++ file where there is one.

    The user's own C++ flags stay, whether they stand in CMAKE_ARGS or in CXXFLAGS.
    """
    args = [f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={RECIPE}", *shlex.split(user)]
    if header is None:
        return " ".join(map(shlex.quote, args))
    # CMake reads CXXFLAGS only where CMAKE_CXX_FLAGS isn't given, and the last of several definitions wins.
    theirs = cxxflags
    for arg in args:
        if match := _CXX_FLAGS.fullmatch(arg):
            theirs = match[1]
    others = [arg for arg in args if not _CXX_FLAGS.fullmatch(arg)]
    # Inside the flags it is the shell of the build that takes the quotes away.
    return " ".join(
        map(shlex.quote, [*others, f"-DCMAKE_CXX_FLAGS=-include {shlex.quote(str(header))} {theirs}".rstrip()])
    )


def header_here() -> Path | None:
    """The header to force-include on this kind of machine: GCC's AMX defect is one of x86 Linux.

    Whether the build uses AMX at all is for the header to see: it does nothing where it doesn't.
    """
    x86 = platform.machine() in {"x86_64", "AMD64"}
    return HEADER if x86 and sys.platform.startswith("linux") else None


@dataclass(frozen=True)
class Build:
    """Everything that decides what a compile of llama.cpp makes."""

    version: str  #: of llama-cpp-python
    cpu: str
    compiler: str
    user_args: str  #: the user's CMAKE_ARGS; not ours, which names a path that differs between checkouts
    recipe: str  #: the contents of our own files that the build reads
    variables: tuple[tuple[str, str], ...]  #: those of BUILD_VARIABLES that are set

    @property
    def key(self) -> str:
        """The name of the wheel's folder in the cache."""
        parts = [self.version, self.cpu, self.compiler, self.user_args, self.recipe, self.variables]
        return hashlib.sha256(json.dumps([sys.platform, platform.libc_ver(), *parts]).encode()).hexdigest()[:20]


def describe_build(version: str, user_args: str, environment: Mapping[str, str]) -> Build:
    """The build that this machine needs. Raises SetupError without a working C++ compiler."""
    ours = [path for path in (header_here(), RECIPE, CPU_TIERS) if path is not None]
    return Build(
        version=version,
        cpu=cpu_identity(read_cpuinfo()),
        compiler=compiler_version(find_compiler(environment)),
        user_args=user_args,
        recipe="\0".join(path.read_text(encoding="utf-8") for path in ours),
        variables=tuple((name, environment[name]) for name in BUILD_VARIABLES if environment.get(name)),
    )


def wheel_folder(build: Build, environment: Mapping[str, str]) -> Path:
    """Where the wheel of ``build`` and its ``build.log`` are kept."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tailrace" / "wheels" / build.key


def find_wheel(folder: Path) -> Path | None:
    """The wheel in its cache folder; None when it hasn't been built."""
    return next(iter(sorted(folder.glob("*.whl"))), None)


def usable_cores() -> int:
    """How many cores this process may compile on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_progress(line: str) -> tuple[int, int] | None:
    """(steps done, steps in all) when a line of build output tells; make's percentages count as 100 steps."""
    if match := _NINJA_STEP.match(line):
        return int(match[1]), int(match[2])
    if match := _MAKE_STEP.match(line):
        return int(match[1]), 100
    return None


def compile_errors(log: str) -> list[str]:
    """The first errors of compilers and CMake in the log of a build; none where something else failed."""
    found = (f"    {line.strip()[:300]}" for line in log.splitlines() if _COMPILE_ERROR.search(line))
    return list(itertools.islice(found, _SHOWN_ERRORS))


def build_wheel(
    build: Build, source: Path, folder: Path, python: Path, constraints: Path, environment: Mapping[str, str]
) -> Path:
    """Compile the wheel of the source distribution ``source`` with the pip of ``python`` and put it into ``folder``.

    Raises SetupError when that fails. The log of the build stays in the folder either way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept_log = folder / "build.log"
    progress = ProgressLine(terminal=sys.stdout.isatty(), write=write_now, clock=time.monotonic)

    max_steps = 0

    def on_line(line: str) -> None:
        nonlocal max_steps
        steps = build_progress(line)
        # A build inside of the build, as that of Vulkan's shader compiler, counts its own few steps.
        if steps is not None and steps[1] >= max_steps:
            max_steps = steps[1]
            progress.show(*steps)

    # Made beside its place and moved in whole: neither a build that breaks off nor a second one at the same time
    # leaves half a wheel behind.
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as name:
        work = Path(name)
        # --verbose: for the steps in the output.
        pip = ["wheel", "--verbose", "--no-deps", "--no-cache-dir"]
        pip += ["--build-constraint", str(constraints), "--wheel-dir", str(work), str(source)]
        args = cmake_args(build.user_args, header_here(), environment.get("CXXFLAGS", ""))
        try:
            run_pip(
                python,
                pip,
                "compiling llama.cpp",
                environment={"CMAKE_BUILD_PARALLEL_LEVEL": str(usable_cores()), **environment, "CMAKE_ARGS": args},
                log=work / "build.log",
                on_line=on_line,
            )
        except SetupError as error:
            errors = compile_errors((work / "build.log").read_text(encoding="utf-8", errors="replace"))
            why = "\n".join(["compiling llama.cpp failed:", *errors]) if errors else str(error)
            raise SetupError(f"{why}\nThe whole log of the build: {kept_log}") from error
        finally:
            progress.end()
            os.replace(work / "build.log", kept_log)
        made = find_wheel(work)
        if made is None:
            raise SetupError(f"pip reported success and left no wheel of {PACKAGE}. The log of the build: {kept_log}")
        os.replace(made, folder / made.name)
        return folder / made.name
