"""Makes ``.venv`` ready to run tailrace: ``python3 scripts/setup.py [--dev] [--smoke] [--rebuild] [--gpu GPU]``.

Owns the virtual environment and its stamp, which records what is installed, so that a repeated set-up is fast. It runs
on the standard library alone, and must stay readable by Pythons that are too old for tailrace itself.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setup_engine import PACKAGE, Build, build_wheel, describe_build, find_wheel, usable_cores, wheel_folder
from setup_gpu import CHOICES, GpuBuild, choose_gpu
from setup_headers import download_source, have_headers, headers_folder, keep_headers
from setup_page import NODE_PACKAGE, PageBuild
from setup_pip import SetupError, run_pip
from setup_steps import Steps, say

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "tailrace-setup.json"
CONSTRAINTS = ROOT / "constraints.txt"
MINIMUM_PYTHON = (3, 11)
#: The model that the smoke test decodes with, which ``make`` fetches first.
SMOKE_MODEL = "smollm2-135m"
#: The exit code by which ``smoke.py`` says that the model isn't there, which is no fault of llama.cpp's.
NO_SMOKE_MODEL = 3


class EngineFailed(SetupError):
    """This llama.cpp can't be compiled, or doesn't work here; another one may."""


def check_python(version: tuple[int, ...]) -> None:
    """Raise SetupError unless a Python of this version can run tailrace and make virtual environments."""
    if version[:2] < MINIMUM_PYTHON:
        have = ".".join(map(str, version[:3]))
        raise SetupError(
            f"tailrace needs Python 3.11 or newer, and {sys.executable} is {have}.\n"
            "Install a newer one and name it: make serve PYTHON=python3.12"
        )
    # Debian ships the venv module without the ensurepip that it needs.
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"{sys.executable} can't make virtual environments: a part of its venv module is missing.\n"
            "  Debian, Ubuntu: sudo apt install python3-venv"
        )


def pinned(package: str, constraints: str) -> str:
    """The version that the text of constraints.txt pins for a package. Raises SetupError when there is none."""
    for line in constraints.splitlines():
        name, separator, version = line.partition("==")
        if separator and name.strip() == package:
            return version.strip()
    raise SetupError(f"{CONSTRAINTS} pins no version of {package}: the checkout is damaged, get it again.")


def read_stamp() -> dict[str, Any]:
    """The stamp of the last set-up; empty without a readable one, so everything is done again."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and PYTHON.exists() else {}


def write_stamp(stamp: Mapping[str, Any]) -> None:
    """Replace the stamp in one step, so that an interrupted setup can't leave half of one."""
    fresh = STAMP.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(fresh, STAMP)


def venv_identity() -> str:
    """Changes when ``.venv`` has to be made anew. Its scripts name its path, so a moved checkout needs another one."""
    return f"{platform.python_version()} in {VENV}"


def install_key() -> str:
    """Changes with the list of packages to install."""
    digest = hashlib.sha256(venv_identity().encode())
    for path in (CONSTRAINTS, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def make_venv(environment: Mapping[str, str]) -> None:
    """Make ``.venv`` anew with the pinned pip."""
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        words = (made.stderr + made.stdout).strip()
        raise SetupError(f"making {VENV} failed:\n{words}\n  Debian, Ubuntu: sudo apt install python3-venv")
    version = pinned("pip", CONSTRAINTS.read_text(encoding="utf-8"))
    run_pip(PYTHON, ["install", f"pip=={version}"], "installing pip", environment=environment)


def install(
    stamp: dict[str, Any], build: Build, steps: Steps, *, dev: bool, rebuild: bool, environment: Mapping[str, str]
) -> None:
    """Bring ``.venv`` from what ``stamp`` says to what is wanted, and bring the stamp up to date."""
    if stamp.get("venv") != venv_identity():
        with steps.step(f"virtual environment: .venv with Python {platform.python_version()}"):
            stamp.clear()
            make_venv(environment)
    # The stamp must not be valid until everything is done; it keeps the earlier facts for the next attempt.
    stamp["venv"] = venv_identity()
    stamp.pop("key", None)
    write_stamp({name: value for name, value in stamp.items() if name != "engine"})
    page = start_page(environment)
    folder = wheel_folder(build, environment)
    wheel = None if rebuild else find_wheel(folder)
    if wheel is None:
        wheel = compile_engine(build, folder, steps, environment)
        stamp.pop("engine", None)
        stamp.pop("smoke", None)
    elif not have_headers(headers_folder(build.version, environment)):
        get_headers(build, environment)
    with steps.step("packages: tailrace and what it needs" + (", and the tools to develop it" if dev else "")):
        if stamp.get("engine") != build.key:
            # pip leaves an installed wheel alone when its version is the same, whatever it was compiled for.
            force = ["install", "--force-reinstall", "--no-deps", str(wheel)]
            run_pip(PYTHON, force, "installing llama.cpp", environment=environment)
        project = f"{ROOT}[dev]" if dev else str(ROOT)
        pins = ["--constraint", str(CONSTRAINTS), "--build-constraint", str(CONSTRAINTS)]
        run_pip(PYTHON, ["install", *pins, str(wheel), "--editable", project], "installing", environment=environment)
        smoke([], build, folder)
    with steps.step("kernels: compile tailrace's own C code for this CPU, and prove its results"):
        build_native()
    with steps.step("page: what a browser shows at /, built beside the steps above"):
        page.wait()
    stamp.update(key=install_key(), dev=dev, engine=build.key, cmake_args=build.user_args)
    write_stamp(stamp)


def compile_engine(build: Build, folder: Path, steps: Steps, environment: Mapping[str, str]) -> Path:
    """Compile llama.cpp; returns its wheel, which stays in ``folder``. Its headers stay in the cache, too. Raises
    SetupError; EngineFailed where the compile fails.
    """
    with tempfile.TemporaryDirectory(prefix="tailrace-") as name:
        with steps.step(f"llama.cpp: download the source of {PACKAGE} {build.version}, 77 MB"):
            source = download_source(PACKAGE, build.version, PYTHON, CONSTRAINTS, environment, Path(name))
            keep_headers(source, headers_folder(build.version, environment))
        options = f" with CMAKE_ARGS {build.user_args}" if build.user_args else ""
        with steps.step(
            f"llama.cpp: compile it for this CPU{options}, once: 2 minutes on 2 cores ({usable_cores()} here)"
        ):
            try:
                wheel = build_wheel(build, source, folder, PYTHON, CONSTRAINTS, environment)
            except SetupError as error:
                raise EngineFailed(str(error)) from error
            say(f"kept in {folder}")
    return wheel


def get_headers(build: Build, environment: Mapping[str, str]) -> None:
    """Get llama.cpp's headers for a wheel that was compiled before set-up kept them. Raises SetupError."""
    with tempfile.TemporaryDirectory(prefix="tailrace-") as name:
        say("downloading llama.cpp's source, for its headers")
        source = download_source(PACKAGE, build.version, PYTHON, CONSTRAINTS, environment, Path(name))
        keep_headers(source, headers_folder(build.version, environment))


def start_page(environment: Mapping[str, str]) -> PageBuild:
    """Begin to build the page, where its sources have changed."""
    return PageBuild(PYTHON, pinned(NODE_PACKAGE, CONSTRAINTS.read_text(encoding="utf-8")), say, environment)


def build_native() -> None:
    """Compile and prove tailrace's own C code with ``build_native.py``. Without it tailrace works, but far slower: so a
    failure is no error here and can't be overlooked.
    """
    script = ROOT / "scripts" / "build_native.py"
    done = subprocess.run([str(PYTHON), str(script)], capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).strip().splitlines():
        say(line)
    if done.returncode != 0:
        say("WARNING: tailrace will run without the kernels above, at a third of the speed or less")


def smoke(args: Sequence[str], build: Build, folder: Path) -> None:
    """Run ``smoke.py`` in a process of its own, which a wrongly compiled llama.cpp may take down.

    Raises EngineFailed that says what happened and how to rebuild.
    """
    script = ROOT / "scripts" / "smoke.py"
    done = subprocess.run([str(PYTHON), str(script), *args], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if done.returncode == NO_SMOKE_MODEL:
        raise SetupError(f"there is no model to check llama.cpp with: {done.stderr.strip()}")
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        how = f"killed by {signal.Signals(-done.returncode).name}"
    words = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-15:])
    raise EngineFailed(
        f"llama.cpp as compiled for this machine doesn't work ({how}):\n{words}\n"
        f"Compile it again:           python3 scripts/setup.py --rebuild\n"
        f"If it still doesn't work:   CMAKE_ARGS=-DGGML_NATIVE=OFF python3 scripts/setup.py\n"
        f"(slower, without this CPU's own instructions), and report it with {folder / 'build.log'} and this compiler:\n"
        f"    {build.compiler.splitlines()[0] if build.compiler else 'unknown'}"
    )


def pull_model() -> None:
    """Fetch the starter model where it isn't in the store. Raises SetupError; the command's own words say why."""
    if subprocess.run([str(VENV / "bin" / "tailrace"), "pull", SMOKE_MODEL], check=False).returncode != 0:
        raise SetupError("the starter model isn't here, see above. Run the same command again: what is done stays.")


def count_steps(build: Build, stamp: Mapping[str, Any], options: argparse.Namespace, folder: Path) -> int:
    """How many steps ``install`` and what follows it will have."""
    compiled = find_wheel(folder) is not None and not options.rebuild
    smoke_too = options.smoke and stamp.get("smoke") != build.key
    return 3 + (stamp.get("venv") != venv_identity()) + (0 if compiled else 2) + (2 if smoke_too else 0)


@contextmanager
def only_one() -> Iterator[None]:
    """Wait until no other set-up of this checkout runs, and keep others waiting inside the block."""
    # Two that install into one .venv would leave a mixture.
    folder = os.open(ROOT / "scripts", os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout runs: waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Run set-up with these options. Raises SetupError."""
    check_python(sys.version_info[:3])
    own_args = environment.get("CMAKE_ARGS", "")
    if options.gpu is not None:
        gpu = choose_gpu(options.gpu, environment)
        for note in gpu.notes:
            say(note)
    elif "CMAKE_ARGS" in environment:
        gpu = GpuBuild()
    else:
        # Remembered, so that a plain `make serve` after a build for the GPU doesn't quietly go back to the CPU.
        stamp = read_stamp()
        gpu = GpuBuild(**stamp.get("gpu", {}))
        own_args = stamp.get("cmake_args", "").removesuffix(gpu.option).rstrip()
    if not gpu.option or not try_gpu(f"{own_args} {gpu.option}".strip(), gpu, options, environment):
        make_ready(own_args, options, environment)
        write_stamp({name: value for name, value in read_stamp().items() if name != "gpu"})


def try_gpu(args: str, gpu: GpuBuild, options: argparse.Namespace, environment: Mapping[str, str]) -> bool:
    """Make a build for the GPU ready. False, with the reason for the user, where it can't be compiled or can't decode;
    it isn't tried again then, unless the user wants it.
    """
    attempt = f"{args} {pinned(PACKAGE, CONSTRAINTS.read_text(encoding='utf-8'))} {gpu.toolkit}"
    again = f"python3 scripts/setup.py --rebuild --gpu {gpu.name}"
    if read_stamp().get("gpu_failed") == attempt and not options.rebuild:
        say(f"WARNING: llama.cpp stays compiled for the CPU: {gpu.option} failed before. To try it again: {again}")
        return False
    try:
        make_ready(args, options, gpu.in_environment(environment))
    except EngineFailed as error:
        say(f"WARNING: the build with {gpu.option} failed:\n{error}")
        say(f"WARNING: going back to llama.cpp for the CPU. To try it again: {again}")
        write_stamp({**read_stamp(), "gpu_failed": attempt})
        return False
    rest = {name: value for name, value in read_stamp().items() if name != "gpu_failed"}
    write_stamp({**rest, "gpu": gpu.facts})
    return True


def make_ready(user_args: str, options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Have ``.venv`` with a llama.cpp of these CMAKE_ARGS. Raises SetupError."""
    stamp = read_stamp()
    version = pinned(PACKAGE, CONSTRAINTS.read_text(encoding="utf-8"))
    build = describe_build(version, user_args, environment)
    folder = wheel_folder(build, environment)
    # The tools for development do no harm to a server, so they are never taken away again.
    dev = options.dev or bool(stamp.get("dev"))
    current = stamp.get("key") == install_key() and stamp.get("dev") == dev and stamp.get("engine") == build.key
    steps = Steps(2 if current and not options.rebuild else count_steps(build, stamp, options, folder))
    if options.rebuild or not current:
        say(f"making {ROOT} ready: all of it once, and what is done stays")
        install(stamp, build, steps, dev=dev, rebuild=options.rebuild, environment=environment)
    else:
        if not have_headers(headers_folder(build.version, environment)):
            get_headers(build, environment)
            build_native()
        start_page(environment).wait()
    if options.smoke and stamp.get("smoke") == build.key:
        pull_model()
    elif options.smoke:
        with steps.step(f"starter model: {SMOKE_MODEL}, 98 MB"):
            pull_model()
        with steps.step("check: llama.cpp as compiled here reads a prompt and writes a few tokens"):
            smoke([SMOKE_MODEL], build, folder)
        stamp["smoke"] = build.key
        write_stamp(stamp)
    steps.finish()


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description="Make .venv ready to run tailrace.")
    parser.add_argument("--dev", action="store_true", help="with the tools for tests and checks")
    parser.add_argument("--smoke", action="store_true", help="fetch the starter model, decode with it once")
    parser.add_argument("--rebuild", action="store_true", help="compile llama.cpp again")
    parser.add_argument("--gpu", metavar="|".join(CHOICES), help="compile it for the GPU, or for the CPU alone")
    options = parser.parse_args()
    try:
        with only_one():
            run(options, os.environ)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; run the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
