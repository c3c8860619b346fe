"""Contexts as Ollama has them: conversations that are too long are cut, full contexts move on, and are given back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ollama_wire import stream, whole
from openai_wire import Reply, ask
from servers import ServerProcess, fake

CONTEXT = 400


@pytest.fixture(scope="module")
def small() -> Iterator[ServerProcess]:
    """The scripted backend with a context of 400 tokens, which are bytes: a prompt has one more than its text."""
    with fake("--ctx", str(CONTEXT), "--parallel", "2") as server:
        yield server


def chat(server: ServerProcess, messages: list[dict[str, Any]], **fields: Any) -> Reply:
    return ask(server.port, "POST", "/api/chat", {"messages": messages, "stream": False, **fields})


def generate(server: ServerProcess, prompt: str, **fields: Any) -> Reply:
    return ask(server.port, "POST", "/api/generate", {"prompt": prompt, "stream": False, **fields})


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def rendered(messages: list[dict[str, Any]]) -> str:
    return "".join(f"[{message['role']}]{message['content']}\n" for message in messages)


SYSTEM = {"role": "system", "content": "be brief"}
#: The scripted backend says what the last script says: a prompt's size shows how much of the conversation it has.
LAST = user("<say>ok</say>")


@pytest.mark.parametrize("count", [5, 10, 40, 300])
@pytest.mark.parametrize("length", [1, 30, 120])
def test_a_conversation_loses_its_oldest_messages(small: ServerProcess, count: int, length: int) -> None:
    """As many as fit stay, and the system's in any case: Ollama's rule."""
    older = [user(f"{n} " + "x" * (length * (n % 3) + 1)) for n in range(count)]
    messages = [SYSTEM, *older, LAST]
    fits = [n for n in range(count + 1) if len(rendered([SYSTEM, *older[n:], LAST])) + 1 < CONTEXT]
    told = whole(chat(small, messages))
    assert told.text == "ok"
    assert told.last["prompt_eval_count"] == len(rendered([SYSTEM, *older[fits[0] :], LAST])) + 1


def test_what_fits_loses_nothing(small: ServerProcess) -> None:
    messages = [user("a"), {"role": "assistant", "content": "b"}, LAST]
    for truncate in (None, True, False):
        assert whole(chat(small, messages, truncate=truncate)).last["prompt_eval_count"] == len(rendered(messages)) + 1


def test_without_truncation_too_long_is_an_error(small: ServerProcess) -> None:
    for reply in (
        chat(small, [user("x" * 300), user("y" * 300)], truncate=False),
        generate(small, "x" * 500, truncate=False),
        generate(small, "x" * 500, truncate=False, raw=True),
    ):
        assert reply.status == 400
        assert "400 tokens" in reply.json()["error"]


def test_results_stay_with_their_call(small: ServerProcess) -> None:
    """A tool's result isn't kept without the call that it answers, nor the other way round."""
    call = {"role": "assistant", "content": "c" * 150, "tool_calls": [{"function": {"name": "f"}}]}
    results = [{"role": "tool", "content": f"r{n}"} for n in range(2)]
    short = whole(chat(small, [user("u" * 200), call, *results, LAST]))
    long = whole(chat(small, [user("u"), call, *results, user("v" * 250), LAST]))
    assert short.last["prompt_eval_count"] > 150
    assert long.last["prompt_eval_count"] == len(rendered([user("v" * 250), LAST])) + 1


def test_a_message_that_is_too_long_by_itself_loses_its_oldest_tokens(small: ServerProcess) -> None:
    """Its first tokens (``num_keep``) stay, as Ollama's runner cuts prompts."""
    text = "a" * 600 + "<say>ok</say>"
    for reply in (chat(small, [SYSTEM, user(text)]), generate(small, text), generate(small, text, raw=True)):
        told = whole(reply)
        assert told.text == "ok"
        assert told.last["prompt_eval_count"] == CONTEXT - 1
    echoed = whole(
        generate(small, "0123456789" + "a" * 600 + "end", raw=True, options={"num_keep": 6, "num_predict": 6})
    )
    assert echoed.text == "012345"


def test_what_is_far_too_long_is_cut_without_reading_it_all(small: ServerProcess) -> None:
    """Megabytes where hundreds of bytes fit: the beginning and the end count."""
    large = "b" * 3_000_000
    told = whole(generate(small, f"0123456789{large}<say>ok</say>", raw=True, options={"num_keep": 6}))
    assert (told.text, told.last["prompt_eval_count"]) == ("ok", CONTEXT - 1)
    messages = [SYSTEM, *(user(f"{n} {'c' * 100_000}") for n in range(30)), LAST]
    told = whole(chat(small, messages))
    assert (told.text, told.last["prompt_eval_count"]) == ("ok", len(rendered([SYSTEM, LAST])) + 1)
    assert chat(small, messages, truncate=False).status == 400


def test_a_full_context_moves_on(small: ServerProcess) -> None:
    """A reply of 600 tokens in a context of 400: the older half is dropped, and the reply goes on."""
    for streams in (False, True):
        prompt = "<say>" + "abcdefghij" * 30 + "</say>"
        reply = generate(small, prompt, stream=streams, options={"num_predict": 600, "seed": 1})
        told = stream(reply) if streams else whole(reply)
        assert told.last["done_reason"] in ("stop", "length")
        assert told.last["eval_count"] > CONTEXT - told.last["prompt_eval_count"]
        assert told.text.startswith("abcdefghij" * 8)
        assert told.last["prompt_eval_count"] == len(f"[user]{prompt}\n") + 1


def test_without_a_shift_the_reply_ends_where_the_context_is_full(small: ServerProcess) -> None:
    prompt = "<say>" + "abcdefghij" * 30 + "</say>"
    told = whole(generate(small, prompt, shift=False))
    assert told.last["done_reason"] == "length"
    assert told.last["prompt_eval_count"] + told.last["eval_count"] == CONTEXT
    held = whole(generate(small, prompt, format={"type": "string", "maxLength": 1000, "minLength": 600}))
    assert held.last["done_reason"] == "length", "a grammar would have to begin anew"


def test_replies_without_a_limit_end(small: ServerProcess) -> None:
    """After ten contexts, as Ollama's."""
    told = whole(generate(small, "ab", raw=True, options={"num_predict": -1}))
    assert told.last["eval_count"] <= 10 * CONTEXT


def test_a_generations_context_is_given_back(small: ServerProcess) -> None:
    first = whole(generate(small, "<say>one</say>")).last
    assert bytes(first["context"][: first["prompt_eval_count"] - 1]) == b"[user]<say>one</say>\n"
    assert bytes(first["context"][first["prompt_eval_count"] :][:3]) == b"one"
    second = stream(generate(small, "<say>two</say>", context=first["context"], stream=True))
    assert second.text == "two"
    assert second.last["prompt_eval_count"] == len(first["context"]) + len("[user]<say>two</say>\n") + 1
    assert second.last["context"][: len(first["context"])] == first["context"]
    assert all("context" not in entry for entry in second.objects[:-1])
    assert "context" not in whole(generate(small, "a", raw=True)).last
    assert "context" not in whole(chat(small, [LAST])).last


def test_a_context_that_is_too_long_loses_its_oldest_tokens(small: ServerProcess) -> None:
    told = whole(generate(small, "<say>ok</say>", context=[97] * 1000))
    assert (told.text, told.last["prompt_eval_count"]) == ("ok", CONTEXT - 1)


@pytest.mark.parametrize("context", [[999_999], [-1], "abc", [1.5], [True]])
def test_a_context_of_other_than_tokens_is_refused(small: ServerProcess, context: object) -> None:
    reply = generate(small, "a", context=context)
    assert (reply.status, "context" in reply.json()["error"]) == (400, True)
    for fields in ({"raw": True}, {"suffix": "b"}):
        assert generate(small, "a", context=[97], **fields).status == 400


@pytest.mark.parametrize("think", [True, False, "low", "medium", "high", "max", ""])
def test_every_word_for_thinking_is_taken(small: ServerProcess, think: object) -> None:
    assert whole(chat(small, [LAST], think=think)).text == "ok"
    assert whole(generate(small, "<say>ok</say>", think=think)).text == "ok"
