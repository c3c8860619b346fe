"""Set-up keeps llama.cpp's headers: out of a source distribution, also for a wheel that an earlier set-up compiled."""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

import pytest

import setup
from setup_engine import Build
from setup_headers import download_source, have_headers, headers_folder, keep_headers
from setup_pip import SetupError

ROOT = "llama_cpp_python-1.2.3"
GGML = f"{ROOT}/vendor/llama.cpp/ggml"


def pack(path: Path, *names: str) -> Path:
    """A source distribution with files of these names, each with its own name in it."""
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return path


def test_headers_of_ggml_and_its_cpu_backend_are_kept(tmp_path: Path) -> None:
    kept = ("include/ggml.h", "src/ggml-impl.h", "src/ggml-cpu/ops.h", "src/ggml-cpu/amx/mmq.h")
    left = ("src/ggml.c", "src/ggml-cuda/common.h", "src/ggml-cpu/../../../../../escaped.h")
    names = [f"{GGML}/{name}" for name in (*kept, *left)] + [f"{ROOT}/vendor/llama.cpp/include/llama.h"]
    folder = tmp_path / "headers" / "1.2.3"
    assert not have_headers(folder)
    keep_headers(pack(tmp_path / "x.tar.gz", *names), folder)
    assert have_headers(folder)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(kept)
    assert (folder / "include/ggml.h").read_text(encoding="utf-8") == f"{GGML}/include/ggml.h"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_source_distribution_laid_out_in_another_way_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="has no headers in vendor/llama"):
        keep_headers(pack(tmp_path / "x.tar.gz", f"{ROOT}/ggml/include/ggml.h"), tmp_path / "headers")
    (tmp_path / "y.tar.gz").write_bytes(b"half of a file")
    with pytest.raises(SetupError, match="can't be extracted"):
        keep_headers(tmp_path / "y.tar.gz", tmp_path / "headers")
    assert not have_headers(tmp_path / "headers")


def test_pip_downloads_the_source(tmp_path: Path) -> None:
    python = tmp_path / "python"
    script = '#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\necho "$3" > "$2/x.tar.gz"\n'
    python.write_text(script, encoding="utf-8")
    python.chmod(0o755)
    into = tmp_path / "into"
    into.mkdir()
    source = download_source("package", "1.2.3", python, tmp_path / "constraints.txt", {"PATH": "/bin:/usr/bin"}, into)
    assert source.read_text(encoding="utf-8") == "package==1.2.3\n"
    python.write_text("#!/bin/sh\n", encoding="utf-8")
    source.unlink()
    with pytest.raises(SetupError, match="left no source distribution"):
        download_source("package", "1.2.3", python, tmp_path / "constraints.txt", {"PATH": "/bin:/usr/bin"}, into)


def test_a_checkout_that_is_set_up_without_headers_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update: the wheel is there, compiled by a set-up that kept none."""
    build = Build(version="1.2.3", cpu="", compiler="", user_args="", recipe="", variables=())
    done: list[str] = []

    def download(package: str, version: str, *others: object) -> Path:
        done.append(f"download {package} {version}")
        return pack(tmp_path / "x.tar.gz", f"{GGML}/include/ggml.h")

    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp.json")
    monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
    setup.write_stamp({"key": setup.install_key(), "dev": False, "engine": build.key})
    monkeypatch.setattr(setup, "describe_build", lambda *arguments: build)
    monkeypatch.setattr(setup, "download_source", download)
    monkeypatch.setattr(setup, "build_native", lambda: done.append("build"))
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    options = argparse.Namespace(dev=False, smoke=False, rebuild=False, gpu=None)
    setup.run(options, environment)
    assert done == ["download llama-cpp-python 1.2.3", "build"]
    assert have_headers(headers_folder("1.2.3", environment))
    setup.run(options, environment)
    assert len(done) == 2


@pytest.mark.parametrize(("status", "warned"), [(0, False), (1, True)])
def test_kernels_that_can_not_be_built_are_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, warned: bool
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho 'kernels for amx: FAILED'; exit {status}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(setup, "PYTHON", python)
    setup.build_native()
    out = capsys.readouterr().out
    assert "setup: kernels for amx: FAILED\n" in out
    assert ("WARNING: tailrace will run without the kernels above" in out) == warned
