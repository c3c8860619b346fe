"""Prefix states outlive the process that has computed them: a conversation's next turn computes its new tokens only."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from openai_wire import ask
from servers import PATIENCE, ServerProcess, alive, serving, wait_for
from tailrace.folders import cache_folder

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

    def __init__(self) -> None:
        self.tokens = [1, *range(300, 420)]

    def turn(self, server: ServerProcess) -> int:
        """One more turn; how many tokens had to be computed that were computed in an earlier turn."""
        before = len(self.tokens) if len(self.tokens) > 121 else 0
        prompt = [*self.tokens, 500, 501, 502]
        body = {"prompt": prompt, "n_predict": _REPLY, "return_tokens": True, "temperature": 0, "ignore_eos": True}
        reply = ask(server.port, "POST", "/completion", body)
        assert reply.status == 200, reply.body
        answer = reply.json()
        self.tokens = [*prompt, *answer["tokens"]]
        assert len(answer["tokens"]) == _REPLY
        # The last token of a reply is sampled and not computed.
        return max(0, before - 1) - int(answer["timings"]["cache_n"])


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
        again.tokens = talk.tokens[: -_REPLY - 3]
        assert again.turn(server) == 0, "what was on the disk before a kill stays there"


def test_a_model_that_is_served_alone_writes_nothing_by_default(cache: Path) -> None:
    talk = Conversation()
    with serving("--ctx", "2048", environment={"XDG_CACHE_HOME": str(cache)}) as server:
        assert talk.turn(server) == 0
        assert server.stop() == 0
    assert not (cache / "tailrace" / "kv").exists()
