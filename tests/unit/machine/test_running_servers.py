"""The record of the running servers: which are found, and what is left of those that have died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tailrace.machine.process_start import start_ticks
from tailrace.machine.running_servers import ServerRecord, ServerState, find_servers, is_running

#: Records a server and says so, until its standard input ends.
SERVER = """
import os, sys
from pathlib import Path
from tailrace.machine.process_start import start_ticks
from tailrace.machine.running_servers import ServerRecord, ServerState
pid = os.getpid()
state = ServerState(models=("m",), loaded=(), port=int(sys.argv[2]), supervisor=pid, http=None,
                    start_ticks=start_ticks(pid))
record = ServerRecord(Path(sys.argv[1]))
record.write(state)
print("recorded", flush=True)
sys.stdin.read()
os._exit(1)
"""


def own_state(port: int = 8000) -> ServerState:
    pid = os.getpid()
    return ServerState(models=("m",), loaded=(), port=port, supervisor=pid, http=None, start_ticks=start_ticks(pid))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is recorded as a server on port 8001."""
    command = [sys.executable, "-c", SERVER, str(tmp_path), "8001"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"recorded\n"
        yield process
        process.kill()


def test_running_servers_are_found_until_they_remove_their_record(
    tmp_path: Path, server: subprocess.Popen[bytes]
) -> None:
    record = ServerRecord(tmp_path)
    record.write(own_state())
    assert [(each.port, each.supervisor) for each in find_servers(tmp_path)] == [
        (8000, os.getpid()),
        (8001, server.pid),
    ]
    record.write(msgspec.structs.replace(own_state(), ready=False))
    assert [each.ready for each in find_servers(tmp_path)] == [False, True]
    record.remove()
    assert [each.port for each in find_servers(tmp_path)] == [8001]


def test_what_a_killed_server_has_left_is_deleted(tmp_path: Path, server: subprocess.Popen[bytes]) -> None:
    (found,) = find_servers(tmp_path)
    server.kill()
    server.wait()
    assert not is_running(found)
    assert find_servers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_reused_process_id_is_another_process() -> None:
    state = own_state()
    assert is_running(state)
    assert state.start_ticks is not None, "this system has no /proc"
    assert not is_running(msgspec.structs.replace(state, start_ticks=state.start_ticks - 1))


def test_a_locked_record_of_an_unknown_process_is_neither_shown_nor_deleted(tmp_path: Path) -> None:
    """A container that shares the folder has process ids of its own."""
    record = ServerRecord(tmp_path)
    record.write(msgspec.structs.replace(own_state(), start_ticks=1))
    assert find_servers(tmp_path) == []
    assert len(list(tmp_path.glob("*.json"))) == 1
    record.remove()


def test_a_record_of_another_version_is_passed_over(tmp_path: Path) -> None:
    record = ServerRecord(tmp_path)
    record.write(own_state())
    (path,) = tmp_path.glob("*.json")
    path.write_text('{"port": "ninety"}', encoding="utf-8")
    assert find_servers(tmp_path) == []
    assert path.exists()
    record.remove()


def test_another_user_s_record_isn_t_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = ServerRecord(tmp_path)
    record.write(own_state())
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert find_servers(tmp_path) == []
    monkeypatch.undo()
    assert len(find_servers(tmp_path)) == 1
    record.remove()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    record = ServerRecord(tmp_path / "state" / "servers")
    record.write(own_state())
    assert (tmp_path / "state/servers").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state/servers").iterdir()} == {0o600}
    record.remove()


def test_a_deleted_record_is_made_again(tmp_path: Path) -> None:
    record = ServerRecord(tmp_path / "servers")
    record.write(own_state())
    for path in (tmp_path / "servers").iterdir():
        path.unlink()
    (tmp_path / "servers").rmdir()
    record.write(own_state())
    assert [each.port for each in find_servers(tmp_path / "servers")] == [8000]
    record.remove()


def test_a_folder_that_can_t_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    record = ServerRecord(tmp_path / "file" / "servers")
    record.write(own_state())
    record.remove()
    assert find_servers(tmp_path / "file" / "servers") == []


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("0.0.0.0", False, "http://127.0.0.1:8000"),
        ("::", True, "https://[::1]:8000"),
        ("192.0.2.1", False, "http://192.0.2.1:8000"),
    ],
)
def test_the_url_is_one_that_a_client_on_this_machine_reaches(host: str, tls: bool, url: str) -> None:
    assert msgspec.structs.replace(own_state(), host=host, tls=tls).url == url
