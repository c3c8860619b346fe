"""Log lines: text of clients can't begin a line or reach a terminal as a control sequence, in either form."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

#: Texts with which a client may try to write a line of its own, or to change a terminal.
EVIL = [
    "a\n12:00:00 [error] forged process=http",
    "a\r12:00:00 [error] forged",
    'a" status=200 key="root',
    "a\x1b[2J\x1b]0;title\x07",
    "a\x9b31m\x85b\u2028c\u2029d",
    "a\u202egnp.exe\u2066b",
    "a\ud800b",
    "a\x00b\x08\x7f",
    "x" * 1_000_000,
    '\n{"event": "forged", "level": "error"}\n',
]
_CONSOLE = re.compile(r"\d\d:\d\d:\d\d \[[a-z]+\] |  \| ")


def logged(form: str, program: str) -> list[str]:
    """The lines that a process writes whose log has this form."""
    head = "import json, os, sys, logging, warnings, threading, structlog\nfrom tailrace.observe import logs\n"
    configure = f"logs.configure('http', level='info', form={form!r})\nlog = structlog.get_logger()\n"
    evil = "EVIL = json.load(sys.stdin)\n"
    done = subprocess.run(
        [sys.executable, "-c", head + configure + evil + program],
        input=json.dumps(EVIL).encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.stderr.decode("utf-8").split("\n")


PROGRAMS = {
    "values": "for text in EVIL: log.info('request', path=text, number=1)",
    "names": "for text in EVIL: log.info('request', **{text[:200]: 1})",
    "events": "for text in EVIL: log.info(text)",
    "containers": "for text in EVIL: log.info('request', found=[text], error=ValueError(text))",
    "exceptions": """
for text in EVIL:
    try:
        raise ValueError(text)
    except ValueError:
        log.exception('a request hit a defect', path=text)
""",
    "libraries": "for text in EVIL: logging.getLogger('uvicorn.error').warning('Invalid request: %s', text)",
    "library exceptions": """
for text in EVIL:
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger('asyncio').exception('Exception in callback %s', text)
""",
    "warnings": "for text in EVIL: warnings.warn(text)",
    "threads": """
def fail(text):
    raise ValueError(text)
for text in EVIL:
    thread = threading.Thread(target=fail, args=(text,))
    thread.start()
    thread.join()
""",
    "uncaught": "raise ValueError(EVIL[0])",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_text_forges_a_line(program: str) -> None:
    console = logged("console", PROGRAMS[program])
    assert console.pop() == ""
    assert console
    for line in console:
        assert _CONSOLE.match(line), line[:200]
        assert line.isprintable(), line[:200]
        assert not re.match(r"\d\d:\d\d:\d\d \[[a-z]+\] forged", line)
    entries = [json.loads(line) for line in logged("json", PROGRAMS[program]) if line]
    assert entries
    for entry in entries:
        assert entry["process"] == "http"
        assert entry["event"] != "forged"


def test_a_value_can_not_pass_for_another() -> None:
    (line, _) = logged("console", "log.info('request', path='a\" status=200', empty='', plain='a/b')")
    assert ' path="a\\" status=200" empty="" plain=a/b ' in line


def test_very_long_values_are_cut() -> None:
    for form in ("console", "json"):
        (line, _) = logged(form, "log.info('request', path='x' * 100_000)")
        assert len(line) < 3000
        assert "(100000 characters)" in line or "(100000 characters)" in json.loads(line)["path"]


def test_tracebacks_have_no_local_variables() -> None:
    program = "secret = 'sk-' + 'secret'\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('defect')"
    for form in ("console", "json"):
        assert "sk-secret" not in "".join(logged(form, program))


def test_lines_of_one_kind_are_bounded() -> None:
    refused = "for _ in range(5000): log.info('request', status=401)\nlog.info('request', status=500)"
    lines = logged("json", refused)
    assert len(lines) < 300
    assert json.loads(lines[-2])["status"] == 500, "another kind has lines of its own"
    served = logged("json", "for _ in range(500): log.info('request', status=200)")
    assert len(served) == 501, "requests that were served all have their lines"
    library = logged("json", "for n in range(5000): logging.getLogger('uvicorn.error').warning('Invalid %d', n)")
    assert len(library) < 300


def test_a_reader_that_stands_still_stops_nothing() -> None:
    """A full pipe: lines are dropped and counted, and the process goes on."""
    program = """
import time
from tailrace.observe import log_writer
begun = time.monotonic()
for number in range(20_000):
    log.info('request', status=200, number=number)
print(time.monotonic() - begun, log_writer.dropped(), flush=True)
sys.stdin.readline()
while log_writer.standard_error()._waiting:
    log_writer.flush()
    time.sleep(0.001)
log.info('later')
"""
    head = (
        "import sys, structlog\nfrom tailrace.observe import logs\nlogs.configure('http', level='info', form='json')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{head}log = structlog.get_logger()\n{program}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    seconds, dropped = process.stdout.readline().split()  # It would wait here for ever.
    assert int(dropped) > 5000
    assert float(seconds) < 30
    _, errors = process.communicate(b"\n", timeout=30)
    *first, note, last = [json.loads(line) for line in errors.decode().splitlines()]
    assert (note["event"], note["lines"]) == ("log lines were dropped: nothing read them", int(dropped))
    assert last["event"] == "later"
    numbers = [line["number"] for line in first]
    assert numbers == list(range(len(numbers))), "the first lines are kept, whole and in order"


@pytest.mark.parametrize("where", ["closed", "socket", *(["full disk"] if Path("/dev/full").exists() else [])])
def test_no_place_for_lines_ends_the_process(where: str) -> None:
    program = """
import os, sys, structlog
from tailrace.observe import logs
logs.configure('http', level='info', form='console')
for _ in range(1000):
    structlog.get_logger().info('request', status=200)
print('alive')
"""
    command = [sys.executable, "-c", program]
    if where == "socket":
        ours, theirs = socket.socketpair()
        with ours, theirs:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs.fileno(), timeout=60, check=False)
    elif where == "closed":
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, timeout=60, check=False)
        os.close(writer)
    else:
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, timeout=60, check=False)
    assert done.stdout == b"alive\n"
    assert done.returncode == 0
