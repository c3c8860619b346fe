"""``tailrace run`` with the starter model, as a person and a shell use it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from pty_session import PtySession

# One thread: other work on the machine must not make a test long.
TAILRACE = [sys.executable, "-c", "from tailrace.cli.app import main; main()"]
RUN = [*TAILRACE, "run", "--threads", "1"]
STATS = r"\d+ tokens, .*TTFT [\d.]+ s, (\d+) of (\d+) prompt tokens cached"

Talk = Callable[..., PtySession]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """This process's, without the settings of the person who runs the tests."""
    own = {"TAILRACE_MODELS"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_") or name in own}
    folders = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}
    return {**kept, **folders, "PYTHONUTF8": "1"}


@pytest.fixture
def talk(environment: dict[str, str]) -> Iterator[Talk]:
    sessions: list[PtySession] = []

    def start(*words: str, columns: int = 400, **variables: str) -> PtySession:
        sessions.append(PtySession([*RUN, *words], {**environment, **variables}, columns=columns))
        sessions[-1].until("/help lists the commands")
        return sessions[-1]

    yield start
    for session in sessions:
        session.close()


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[openai.OpenAI]:
    """A client of a server of its own."""
    serve = [*TAILRACE, "serve", "--port", "0", "--threads", "1"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            url = next(found[1] for line in lines if (found := re.search(r"listens on (\S+)", line)))
            with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as made:
                yield made
        finally:
            process.send_signal(signal.SIGTERM)


def run(environment: dict[str, str], *words: str, pipe: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words], input=pipe, capture_output=True, text=True, env=environment, check=False)


def enter(session: PtySession, *lines: str) -> None:
    """Type lines, each once the program asks for it."""
    for line in lines:
        session.until(r"\n[>|] \Z")
        session.type(f"{line}\n")


def press(session: PtySession, key: str) -> None:
    """Press a key at the program's prompt."""
    session.until(r"\n[>|] \Z")
    session.type(key)


def streamed(client: openai.OpenAI, messages: list[dict[str, str]]) -> str:
    stream = client.chat.completions.create(
        model="smollm2-135m", messages=cast(Any, messages), temperature=0, max_tokens=60, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_greedy_text_is_the_apis_text(
    environment: dict[str, str], talk: Talk, client: openai.OpenAI, tmp_path: Path
) -> None:
    question, system = "Name three rivers of Europe and say a sentence about each.", "You answer in short sentences."
    options = ("--temperature", "0", "--max-tokens", "60")
    first = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    text = streamed(client, first)
    assert text

    once = run(environment, "-p", question, "--system", system, *options)
    assert (once.returncode, once.stdout, once.stderr) == (0, f"{text.removesuffix(chr(10))}\n", "")

    # The same over two turns: what a conversation saves is what the API is asked.
    session = talk(*options, "--system", system)
    enter(session, question)
    session.until(STATS)
    enter(session, "Which of them is the longest?")
    session.until(STATS)
    enter(session, f"/save {tmp_path / 'talk.json'}")
    session.until("Saved to")
    saved = json.loads((tmp_path / "talk.json").read_bytes())
    assert saved["messages"][:3] == [*first, {"role": "assistant", "content": text}]
    assert saved["messages"][4]["content"] == streamed(client, saved["messages"][:4])


def test_the_figures_go_to_stderr_on_request(environment: dict[str, str]) -> None:
    done = run(environment, "-p", "Hi", "--max-tokens", "3", "--verbose")
    assert done.returncode == 0
    assert re.fullmatch(r"3 tokens, .*prompt tokens cached, cut off at max_tokens\n", done.stderr)


def test_a_pipe_is_the_prompt_or_joins_it(environment: dict[str, str]) -> None:
    fake = {**environment, "TAILRACE_BACKEND": "fake"}
    alone = run(fake, "--temperature", "0", pipe="<say>heard</say>\n")
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, "heard\n", "")
    # The backend without a model repeats a prompt that holds no script.
    joined = run(fake, "--temperature", "0", "-p", "Summarise:", "--system", "Be brief.", pipe="one\ntwo\n")
    assert joined.stdout == "[system]Be brief.\n[user]Summarise:\n\none\ntwo\n"


def test_a_pipe_gets_the_complete_reply_and_no_other_text(environment: dict[str, str]) -> None:
    fake = {**environment, "TAILRACE_BACKEND": "fake"}
    done = run(fake, "--temperature", "0", pipe=r"<say><think>hm</think>\x1b[31m€ 日本\n</say>")
    assert done.stdout == "\x1b[31m€ 日本\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "the pipe is empty"),
        (("-p", "x", "--temperature", "300"), "--temperature: temperature can't be 300.0"),
        (("-p", "x", "--max-tokens", "0"), "--max-tokens: max_tokens can't be 0"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    environment: dict[str, str], words: tuple[str, ...], complaint: str
) -> None:
    done = run(environment, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_bytes_that_are_no_text_are_refused(environment: dict[str, str]) -> None:
    done = subprocess.run(RUN, input=b"\xff\xfe", capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert b"isn't UTF-8" in done.stderr


def test_a_too_long_prompt_is_refused_with_both_sizes(environment: dict[str, str], talk: Talk) -> None:
    done = run(environment, "--ctx", "64", pipe="word " * 200)
    assert done.returncode == 1
    assert re.search(r"context length is 64 tokens, but the prompt has 2\d\d tokens", done.stderr)

    session = talk("--ctx", "64", "--max-tokens", "4")
    enter(session, "word " * 100)
    session.until(r"context length is 64 tokens, but the prompt has 1\d\d tokens.*taken back")
    enter(session, "Hi")
    session.until(STATS)


def test_the_second_turn_finds_the_first_one_ready(talk: Talk, environment: dict[str, str]) -> None:
    session = talk("--max-tokens", "12")
    enter(session, "Hello, I am Zoë from 日本.")
    first = re.search(STATS, session.until(STATS))
    enter(session, "Who am I?")
    second = re.search(STATS, session.until(STATS))
    assert first is not None
    assert second is not None
    assert int(first[1]) == 0
    assert int(second[1]) >= int(first[2])
    assert "\x1b[2m" in session.raw, "the figures are dim"
    press(session, "\x04")
    assert session.wait() == 0
    history = Path(environment["XDG_STATE_HOME"]) / "tailrace" / "history"
    assert "Hello, I am Zoë from 日本." in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_the_reply_and_not_the_program(talk: Talk) -> None:
    session = talk("--temperature", "0", "--ctx", "200000", TAILRACE_BACKEND="fake")
    # Repeating it takes seconds, a hundred times longer than the key needs.
    enter(session, "/multi", *["word " * 600] * 40, "/end")
    session.until(r"/end\n\[user\]word word")
    session.type("\x03")
    session.until(r"prompt tokens cached, stopped")
    enter(session, "<say>still here</say>")
    session.until(r"</say>\nstill here\n")
    session.until(r"\n> \Z")
    session.insist("\x03", "Ctrl-D or /exit leaves")
    enter(session, "/exit")
    assert session.wait() == 0


def test_ctrl_c_while_the_real_model_replies(talk: Talk) -> None:
    session = talk("--temperature", "0")
    enter(session, "Write a very long story about a river.")
    session.until(r"river\.\n\w+")
    session.type("\x03")
    session.until(r"prompt tokens cached, stopped")
    enter(session, "/set max_tokens 5")
    session.until("max_tokens is 5")
    enter(session, "Hello again.")
    stats = re.search(STATS, session.until(STATS))
    assert stats is not None
    assert int(stats[1]) > 0


def test_reasoning_is_dim_and_control_characters_are_harmless(talk: Talk) -> None:
    session = talk("--temperature", "0", TAILRACE_BACKEND="fake")
    enter(session, r"<say><think>let me see</think>\x1b]0;owned\x07done</say>")
    session.until(r"let me see\n\n␛\]0;owned␇done\n")
    assert "\x1b[2mlet" in session.raw.replace("\x1b[2ml\x1b", "\x1b")
    enter(session, "/show")
    shown = session.until("messages so far")
    assert "2 messages so far" in shown


def test_several_lines_make_one_message(talk: Talk) -> None:
    session = talk("--temperature", "0", TAILRACE_BACKEND="fake")
    enter(session, "/multi", "one", "two", "/end")
    session.until(r"\[user\]one\ntwo\n")
    # The same, pasted: terminals mark what doesn't come from the keyboard.
    enter(session, "\x1b[200~three\nfour\x1b[201~")
    session.until(r"\[user\]three\nfour\n")
    enter(session, "/multi", "lost")
    session.until(r"\n\| \Z")
    session.insist("\x03", "Dropped")
    enter(session, "/nonsense")
    session.until("/nonsense is no command")
