"""Servers that can't start: what they say, and their exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openai_requests import CHAT, reply_to
from openai_wire import ask, chat
from servers import PATIENCE, fake, serving
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    command = [str(Path(sys.executable).with_name("tailrace")), "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_port_in_use_is_one_line() -> None:
    with fake() as server:
        ended = serve("--backend", "fake", "--port", str(server.port))
        assert ended.returncode == 2
        assert ended.stdout == ""
        (line,) = ended.stderr.strip().splitlines()
        assert str(server.port) in line
        assert "--port" in line
        assert reply_to(server) == "ok"


@pytest.mark.parametrize("flag", ["--ctx", "--kv-tokens"])
def test_a_context_that_can_not_fit_into_memory_is_one_line_with_the_numbers(flag: str) -> None:
    ended = serve("--port", "0", flag, "16777216")
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "16777216, whose KV cache takes 386.5 GB" in line
    assert f"set {flag} to " in line


def test_a_header_that_llama_cpp_aborts_on_ends_the_server_with_its_message(tmp_path: Path, starter: Path) -> None:
    data = starter.read_bytes()
    at = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data[:at] + bytes(4) + data[at + 4 :])
    ended = serve(str(path), "--port", "0")
    assert ended.returncode == 78
    last = ended.stderr.strip().splitlines()[-1]
    assert "the model can't be loaded: SIGABRT: llama.cpp aborted: " in last
    assert ended.stderr.count("the engine process died") == 1


@pytest.mark.parametrize("how", ["cut", "rubbish", "empty"])
def test_a_broken_model_ends_the_server_with_a_message(tmp_path: Path, starter: Path, how: str) -> None:
    path = tmp_path / "broken.gguf"
    data = starter.read_bytes()
    path.write_bytes({"cut": data[:20_000_000], "rubbish": b"rubbish" * 1000, "empty": b""}[how])
    ended = serve(str(path), "--port", "0")
    assert ended.returncode != 0
    assert "broken.gguf" in ended.stderr
    assert ended.stderr.count("the model can't be served") <= 1
    assert "Traceback" not in ended.stderr


def test_a_model_with_a_broken_template_still_completes_texts(tmp_path: Path, starter: Path) -> None:
    """With another template it holds conversations, too."""
    data = starter.read_bytes()
    assert data.count(b"{% for message in messages %}") == 1
    path = tmp_path / "mute.gguf"
    path.write_bytes(data.replace(b"{% for message in messages %}", b"{% fur message in messages %}"))
    with serving(str(path), "--ctx", "256", "--threads", "1") as server:
        reply = ask(server.port, "POST", "/v1/completions", {"prompt": "Once", "max_tokens": 2})
        assert reply.status == 200
        refused = ask(server.port, "POST", CHAT, chat("Hello"))
        assert (refused.status, refused.error()["code"]) == (400, "chat_template_unusable")
        assert "--chat-template" in refused.error()["message"]
        assert "conversations are refused" in server.log
        assert "Traceback" not in server.log
    other = tmp_path / "other.jinja"
    other.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}", encoding="utf-8")
    with serving(str(path), "--ctx", "256", "--threads", "1", "--chat-template", str(other)) as server:
        messages = [{"role": "user", "content": "Hello"}]
        reply = ask(server.port, "POST", "/apply-template", {"messages": messages})
        assert reply.json() == {"prompt": "<user>Hello\n"}
        assert ask(server.port, "POST", CHAT, chat("Hello", max_tokens=2)).status == 200
        shown = ask(server.port, "POST", "/api/show", {"model": "mute"})
        assert shown.json()["template"] == other.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "can't be read"),
        (b"", "is empty"),
        (b"\xff\xfe", "can't be read"),
        (b"{% for %}", "can't be compiled"),
        (b"Hello!", "leaves out"),
        (b"{{ raise_exception('never') }}", "never"),
    ],
)
def test_a_chat_template_that_can_not_be_used_is_a_wrong_setting(
    tmp_path: Path, text: bytes | None, reason: str
) -> None:
    path = tmp_path / "wrong.jinja"
    if text is not None:
        path.write_bytes(text)
    ended = serve("--backend", "fake", "--port", "0", "--chat-template", str(path))
    assert ended.returncode == 2
    assert "chat_template" in ended.stderr
    assert reason in ended.stderr
    assert str(path) in ended.stderr.replace("\n", "")


@pytest.fixture(scope="module")
def starter() -> Path:
    """The starter model's file."""
    return locate_model(STARTER_MODEL).path
