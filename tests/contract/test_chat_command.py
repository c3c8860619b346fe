"""``tailrace chat`` against our server and against scripted ones, in pipes and in a terminal."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pty_session import PtySession
from servers import PATIENCE, ServerProcess

TAILRACE = str(Path(sys.executable).with_name("tailrace"))


def environment(folder: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "OPENAI_"))}
    folders = {name: str(folder) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME")}
    return {**own, **folders, "PYTHONUTF8": "1", **more}


def chat(folder: Path, *arguments: str, pipe: str = "Hi", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TAILRACE, "chat", *arguments],
        input=pipe,
        capture_output=True,
        text=True,
        env=environment(folder, **more),
        check=False,
        timeout=PATIENCE,
    )


@contextmanager
def talking(folder: Path, *arguments: str, **more: str) -> Iterator[PtySession]:
    session = PtySession([TAILRACE, "chat", *arguments], environment(folder, **more))
    try:
        yield session
    finally:
        session.close()


@contextmanager
def foreign(*events: object, end: bytes = b"data: [DONE]\n\n", **models: Any) -> Iterator[tuple[str, list[Any]]]:
    """The URL of a server that streams these events to each chat, and the bodies that it was sent."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(models or {"data": [{"id": "foreign"}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()
            for event in events:
                self.wfile.write(b": ping\n\ndata: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(end)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def delta(finish: str | None = None, **fields: str) -> dict[str, object]:
    return {"choices": [{"delta": fields, "finish_reason": finish}]}


def test_a_question_in_a_pipe_gets_its_reply_alone(scripted: ServerProcess, tmp_path: Path) -> None:
    url = f"127.0.0.1:{scripted.port}"
    done = chat(tmp_path, url, "-p", "Read this:", "-v", pipe="<say>It is read.</say>")
    assert (done.returncode, done.stdout) == (0, "It is read.\n")
    assert "tokens/s, TTFT" in done.stderr
    assert "prompt tokens cached" in done.stderr


def test_a_foreign_server_is_asked_in_openais_form_with_what_the_user_has_set(tmp_path: Path) -> None:
    events = (delta(reasoning="Hm."), delta(content="Yes"), delta("stop", content="!"))
    with foreign(*events) as (url, asked):
        done = chat(tmp_path, url, "--system", "Be brief.", "--temperature", "0.5", OPENAI_API_KEY="k")
    assert (done.returncode, done.stdout) == (0, "Yes!\n"), done.stderr
    assert asked == [
        {
            "model": "foreign",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
        }
    ]


@pytest.mark.parametrize(
    ("events", "end", "says"),
    [
        ([{"error": {"message": "out of \x1b[31mmemory"}}], b"", "out of ␛[31mmemory"),
        ([delta(content="half")], b"", "has broken off its reply"),
        ([{"choices": "none"}], b"", "streams in no form of OpenAI's"),
        ([], b"data: <html>\n\n", "streams something else than JSON objects"),
    ],
)
def test_a_reply_that_fails_is_an_error(events: list[object], end: bytes, says: str, tmp_path: Path) -> None:
    with foreign(*events, end=end) as (url, _):
        done = chat(tmp_path, url)
    assert done.returncode == 1
    assert says in done.stderr


def test_a_server_that_is_none_and_a_key_that_is_missing_are_told(keyed: ServerProcess, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nothing = chat(tmp_path, f"127.0.0.1:{free.getsockname()[1]}")
    assert nothing.returncode == 1
    assert "doesn't answer" in nothing.stderr
    assert chat(tmp_path, "ftp://host").returncode == 2
    refused = chat(tmp_path, f"127.0.0.1:{keyed.port}")
    assert refused.returncode == 1
    assert "wants an API key: set TAILRACE_API_KEY or OPENAI_API_KEY" in refused.stderr
    done = chat(tmp_path, f"127.0.0.1:{keyed.port}", pipe="<say>ok</say>", OPENAI_API_KEY="s3cret")
    assert done.stdout == "ok\n"


def test_in_a_terminal_the_key_is_asked_for_and_commands_work(keyed: ServerProcess, tmp_path: Path) -> None:
    with talking(tmp_path, f"127.0.0.1:{keyed.port}") as session:
        session.until("API key of http://127.0.0.1:")
        session.type("s3cret\n")
        session.until("fake on http://127.0.0.1:.*/help lists the commands")
        assert "s3cret" not in session.raw
        session.type("/models\n")
        session.until(r"\* fake")
        session.type("Say <say>hello</say>\n")
        session.until(r"hello\n.*tokens/s, TTFT .*cached")
        session.type("/model other\n")
        session.until("The next replies come from other")
        session.type("Hi\n")
        session.until("Your message was taken back")
        session.type("/help\n")
        session.until("/model NAME")
        session.type("/exit\n")
        assert session.wait() == 0


def test_hostile_replies_and_names_reach_the_terminal_harmless(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b31m"
    events = (delta(reasoning_content=f"think {evil}"), delta("stop", content=f"text {evil} end"))
    with foreign(*events, data=[{"id": f"name{evil}"}]) as (url, _), talking(tmp_path, url) as session:
        session.until("/help lists the commands")
        session.type("Hi\n")
        session.until("end\n")
        session.type("/exit\n")
        assert session.wait() == 0
    assert "\x1b]0" not in session.raw
    assert "\x9b" not in session.raw
    assert "\x07" not in session.raw
    assert "\x1b[2mthink ␛]0;owned␇" in session.raw, "reasoning is dim"


def test_ctrl_c_stops_the_reply_and_the_conversation_goes_on(slow: ServerProcess, tmp_path: Path) -> None:
    with talking(tmp_path, f"127.0.0.1:{slow.port}") as session:
        session.until("/help lists the commands")
        session.type(f"<say>{'x' * 1000}</say>\n")
        session.until(r"</say>\s*x{20}")  # Behind what was typed: the reply has begun.
        session.insist("\x03", "stopped|taken back")
        session.type("<say>and on</say>\n")
        session.until("and on\n")
        session.type("/exit\n")
        assert session.wait() == 0
