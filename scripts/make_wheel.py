"""Makes tailrace's wheel for Linux on x86-64: ``make wheel``, with the Python of ``.venv``.

The wheel has the page, llama.cpp with its Python binding, and tailrace's own C code, compiled for every CPU tier. It
installs without a compiler; the process chooses its tier when it starts. What is in it and why: docs/install.md. Owns
``dist/``; the compiled llama.cpp stays in the cache beside those of ``setup.py``.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

from setup import CONSTRAINTS, PYTHON, ROOT, pinned
from setup_engine import PACKAGE, Build, build_wheel, describe_build, find_wheel, wheel_folder
from setup_headers import download_source, keep_headers
from setup_headers import headers_folder as kept_headers
from setup_page import NODE_PACKAGE, build_page
from setup_pip import SetupError, run_pip
from setup_steps import Steps, say
from tailrace.engine.kernels import build as kernels_build
from tailrace.engine.native_libs import NativeUnavailable, ggml_layout
from tailrace.engine.native_libs.compiler import find_compiler
from tailrace.engine.native_libs.library import Build as LibraryBuild
from tailrace.engine.native_libs.library import Source
from tailrace.engine.native_libs.tiers import TIERS, TierName
from tailrace.engine.sampling.logits_ops.native import build as logits_build
from wheel_file import add_bundle, read_entries, write_wheel

DIST = ROOT / "dist"
#: tailrace's own compiled C code, by a digest of all that it depends on.
LIBRARIES = ROOT / "build" / "wheel-libraries"
#: The tiers that llama.cpp is compiled for, beside x86-64-v2 for all others. Those of the kernels: what they don't
#: compute, llama.cpp does.
GGML_TIERS: tuple[TierName, ...] = ("amx", "avx512-vnni", "avx2-vnni", "avx2")
#: Without -march=native; SSE 4.2 and what belongs to it is x86-64-v2.
_NEWER_ISAS = ("AVX", "AVX2", "FMA", "F16C", "BMI2")
PORTABLE = ("-DGGML_NATIVE=OFF", "-DGGML_SSE42=ON", *(f"-DGGML_{isa}=OFF" for isa in _NEWER_ISAS))
#: Of what is inside and has no licence file of its own there.
LICENCES = Path(__file__).parent / "bundled_licences"
_TOOLS = ("auditwheel", "patchelf")


def portable_build(environment: Mapping[str, str]) -> Build:
    """The build of llama.cpp for all CPUs. Its key doesn't depend on this one."""
    version = pinned(PACKAGE, CONSTRAINTS.read_text(encoding="utf-8"))
    flags = [f"'-DTAILRACE_FLAGS_{tier}={' '.join(TIERS[tier].compiler_flags)}'" for tier in GGML_TIERS]
    args = " ".join((*PORTABLE, f"'-DTAILRACE_CPU_TIERS={'|'.join(GGML_TIERS)}'", *flags))
    return replace(describe_build(version, args, environment), cpu="x86-64, all tiers")


def compiled_llama(build: Build, steps: Steps, environment: Mapping[str, str]) -> Path:
    """The binding's wheel with llama.cpp for all tiers, which is compiled where the cache hasn't got it."""
    folder = wheel_folder(build, environment)
    tiers = ", ".join(reversed(GGML_TIERS))
    with steps.step(f"llama.cpp: compile it for x86-64-v2, {tiers}, once: 4 minutes on 2 cores"):
        found = find_wheel(folder)
        if found is not None:
            return found
        with tempfile.TemporaryDirectory(prefix="tailrace-") as name:
            source = download_source(PACKAGE, build.version, PYTHON, CONSTRAINTS, environment, Path(name))
            keep_headers(source, kept_headers(build.version, environment))
            return build_wheel(build, source, folder, PYTHON, CONSTRAINTS, environment)


def own_libraries() -> list[tuple[Source, TierName]]:
    """All of tailrace's own C code with its tiers."""
    found: list[tuple[Source, TierName]] = [(kernels_build.source(), tier) for tier in kernels_build.KERNEL_TIERS]
    found += [(logits_build.source(), tier) for tier in logits_build.LOGITS_TIERS]
    return [*found, (ggml_layout.source(), "any")]


def compile_own(folder: Path) -> None:
    """Compile tailrace's own C code for each tier, unless that was done before, and copy it into ``folder``. Raises
    NativeUnavailable.
    """
    compiler = find_compiler()
    LIBRARIES.mkdir(parents=True, exist_ok=True)
    for source, tier in own_libraries():
        build = LibraryBuild(source, TIERS[tier], compiler, LIBRARIES)
        if not build.path.is_file():
            with tempfile.TemporaryDirectory(dir=LIBRARIES) as name:
                made = Path(name) / build.path.name
                build.write(made)
                os.replace(made, build.path)
        shutil.copyfile(build.path, folder / f"{source.name}-{tier}.so")


def pure_wheel(folder: Path, environment: Mapping[str, str]) -> Path:
    """tailrace's own wheel as any build makes it."""
    pip = ["wheel", "--no-deps", "--build-constraint", str(CONSTRAINTS), "--wheel-dir", str(folder), str(ROOT)]
    run_pip(PYTHON, pip, "packing tailrace", environment=environment)
    return next(folder.glob("tailrace-*.whl"))


def audit(wheel: Path, environment: Mapping[str, str]) -> Path:
    """Have auditwheel name the oldest Linux that the wheel runs on and copy what isn't part of each; returns the wheel
    in ``dist/``. Raises SetupError.
    """
    tools = ROOT / "build" / "wheel-tools"
    if not (tools / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(tools)], check=True)
    pip = ["install", "--constraint", str(CONSTRAINTS), *_TOOLS]
    run_pip(tools / "bin" / "python", pip, "installing auditwheel", environment=environment)
    path = os.pathsep.join((str(tools / "bin"), environment.get("PATH", os.defpath)))
    for old in DIST.glob("tailrace-*.whl"):
        old.unlink()
    done = subprocess.run(
        [str(tools / "bin" / "auditwheel"), "repair", "--wheel-dir", str(DIST), str(wheel)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PATH": path},
    )
    made = next(DIST.glob("tailrace-*.whl"), None)
    if done.returncode != 0 or made is None:
        raise SetupError(f"auditwheel refuses the wheel:\n{done.stdout}{done.stderr}")
    return made


def make(environment: Mapping[str, str]) -> Path:
    """Make the wheel in ``dist/``. Raises SetupError and NativeUnavailable."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError("the wheel is for Linux on x86-64, and is made there. Elsewhere: make serve")
    steps = Steps(5)
    llama = compiled_llama(portable_build(environment), steps, environment)
    with tempfile.TemporaryDirectory(prefix="tailrace-wheel-") as name:
        work = Path(name)
        with steps.step(f"kernels: compile tailrace's own C code for {', '.join(reversed(GGML_TIERS))}"):
            libraries = work / "libraries"
            libraries.mkdir()
            compile_own(libraries)
        with steps.step("page: what a browser shows at /"):
            build_page(PYTHON, pinned(NODE_PACKAGE, CONSTRAINTS.read_text(encoding="utf-8")), say, environment)
        with steps.step("wheel: put all together"):
            record = json.dumps({"compiler": find_compiler().version.splitlines()[0], "tiers": GGML_TIERS})
            with ZipFile(pure_wheel(work, environment)) as pure, ZipFile(llama) as binding:
                entries = add_bundle(read_entries(pure), read_entries(binding), record)
            for file in sorted(libraries.iterdir()):
                entries[f"tailrace/bundled/libraries/{file.name}"] = file.read_bytes()
            for file in sorted(LICENCES.iterdir()):
                entries[f"tailrace/bundled/licences/{file.name}"] = file.read_bytes()
            draft = write_wheel(entries, work)
        with steps.step("audit: which Linux it runs on, with auditwheel"):
            DIST.mkdir(exist_ok=True)
            made = audit(draft, environment)
    say(f"{made.relative_to(ROOT)}, {made.stat().st_size / 1e6:.0f} MB. Install it with: pip install {made.name}")
    steps.finish()
    return made


def main() -> int:
    """The command; its exit code."""
    try:
        make(os.environ)
    except (SetupError, NativeUnavailable) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
