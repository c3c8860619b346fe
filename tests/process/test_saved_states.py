"""Prefix states outlive the process that has computed them: a conversation's next turn computes its new tokens only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from architectures import ARCHITECTURES, tiny_model
from openai_wire import ask
from servers import PATIENCE, ServerProcess, alive, serving, wait_for
from tailrace.folders import cache_folder
from tailrace.settings import STARTER_MODEL

#: Tokens of each reply.
_REPLY = 8


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder without prefix states, with everything else that the user's own has."""
    own = tmp_path / "tailrace"
    own.mkdir()
    for each in cache_folder().iterdir():
        if each.name != "kv":
            (own / each.name).symlink_to(each)
    return tmp_path


class Conversation:
    """A conversation in tokens, so that nothing depends on how a reply's text is tokenised."""

    def __init__(self, model: str = STARTER_MODEL, tokens: Iterable[int] = range(300, 420)) -> None:
        self.model = model
        self.tokens = [1, *tokens]
        self.turns = 0

    def turn(self, server: ServerProcess) -> int:
        """One more turn; how many tokens had to be computed that were computed in an earlier turn."""
        prompt = [*self.tokens, 50, 51, 52]
        body = {"model": self.model, "prompt": prompt, "n_predict": _REPLY, "return_tokens": True, "temperature": 0}
        reply = ask(server.port, "POST", "/completion", body | {"ignore_eos": True})
        assert reply.status == 200, reply.body
        answer = reply.json()
        assert len(answer["tokens"]) == _REPLY
        # The last token of a reply is sampled and not computed.
        computed = len(self.tokens) - 1 if self.turns else 0
        self.tokens, self.turns = [*prompt, *answer["tokens"]], self.turns + 1
        return max(0, computed - int(answer["timings"]["cache_n"]))


def test_a_conversation_goes_on_after_each_end_of_a_process(cache: Path) -> None:
    talk = Conversation()
    arguments = ("--keep-disk-mb", "500", "--ctx", "2048")
    environment = {"XDG_CACHE_HOME": str(cache)}
    with serving(*arguments, environment=environment) as server:
        assert talk.turn(server) == 0
        os.kill(server.http, signal.SIGKILL)
        assert talk.turn(server) == 0, "another HTTP process"
        engine = server.engine
        os.kill(engine, signal.SIGTERM)
        wait_for("the engine's end", lambda: not alive(engine))
        assert talk.turn(server) == 0, "another engine"
        os.kill(server.pid, signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert "Bad file descriptor" not in server.log, "the connection is closed when no thread uses it"
    (folder,) = (cache / "tailrace" / "kv").iterdir()
    (state,) = folder.iterdir()
    assert (state.suffix, state.stat().st_mode & 0o777) == (".kv", 0o600)
    with serving(*arguments, environment=environment) as server:
        assert talk.turn(server) == 0, "another server"
        (state,) = folder.iterdir()
        os.kill(server.engine, signal.SIGKILL)
        again = Conversation()
        again.tokens, again.turns = talk.tokens[: -_REPLY - 3], 1
        assert again.turn(server) == 0, "what was on the disk before a kill stays there"


def test_a_model_that_is_served_alone_writes_nothing_by_default(cache: Path) -> None:
    talk = Conversation()
    environment = {"XDG_CACHE_HOME": str(cache), "TAILRACE_KEEP_DISK_MB": "-1"}
    with serving("--ctx", "2048", environment=environment) as server:
        assert talk.turn(server) == 0
        assert server.stop() == 0
    assert not (cache / "tailrace" / "kv").exists()


def test_conversations_of_models_that_take_turns_in_memory_go_on(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    files = [str(tiny_model(kind, folder)) for kind in ARCHITECTURES]
    talks = [Conversation(Path(file).stem, (10 + place % 200 for place in range(300))) for file in files]
    # Few of them are loaded at a time.
    environment = {"XDG_CACHE_HOME": str(cache), "TAILRACE_MODELS_MB": "200", "TAILRACE_KEEP_DISK_MB": "-1"}
    with serving(*files, "--ctx", "1024", environment=environment) as server:
        for talk in talks * 2:
            assert talk.turn(server) == 0, talk.model
        assert server.log.count("model loaded") > len(files), "they took turns"


def test_a_second_signal_ends_an_engine_that_saves_at_once() -> None:
    """Its save writes to a pipe that is never read, and would last for ever."""
    code = f"""
import os, signal, time
from tailrace.engine.service import EngineService
service = object.__new__(EngineService)
service._stopping, service._loop = False, None
def serve():
    print("serving", flush=True)
    while not service._stopping:
        time.sleep(0.01)
def save():
    print("saving", flush=True)
    read, write = os.pipe()
    os.write(write, bytes({1 << 20}))
service._serve_connection, service._save_states = serve, save
service.run()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in (b"serving\n", b"saving\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
