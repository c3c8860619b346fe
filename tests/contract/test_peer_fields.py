"""Fields that llama-server's and vLLM's clients send to OpenAI's routes do what they say."""

from __future__ import annotations

from typing import Any

import pytest

from openai_wire import ask, chat, chat_stream, metric, say, text_stream
from servers import ServerProcess, wait_for

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
RESPONSES = "/v1/responses"


def choice(server: ServerProcess, text: str, **fields: object) -> dict[str, Any]:
    found: dict[str, Any] = ask(server.port, "POST", CHAT, chat(text, **fields)).json()["choices"][0]
    return found


def text_choice(server: ServerProcess, text: str, **fields: object) -> dict[str, Any]:
    found: dict[str, Any] = ask(server.port, "POST", TEXT, {"prompt": text, **fields}).json()["choices"][0]
    return found


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_a_limit_of_minus_one_is_none(scripted: ServerProcess, name: str) -> None:
    long = "x" * 300
    assert choice(scripted, say(long), **{name: -1})["message"]["content"] == long
    if name != "max_completion_tokens":
        assert text_choice(scripted, say(long), **{name: -1})["text"] == long


def test_a_limit_of_minus_one_in_the_other_dialects(scripted: ServerProcess) -> None:
    long = "x" * 300
    reply = ask(scripted.port, "POST", RESPONSES, {"input": say(long), "max_output_tokens": -1, "store": False}).json()
    assert reply["output"][0]["content"][0]["text"] == long
    assert reply["max_output_tokens"] is None
    body = chat(say(long), max_tokens=-1, model="fake")
    assert ask(scripted.port, "POST", "/v1/messages", body).json()["content"][0]["text"] == long


def test_n_predict_wins_over_max_tokens(scripted: ServerProcess) -> None:
    assert choice(scripted, say("abcdef"), n_predict=2, max_tokens=4)["message"]["content"] == "ab"
    assert text_choice(scripted, say("abcdef"), n_predict=2, max_tokens=4)["text"] == "ab"
    body = {"input": say("abcdef"), "n_predict": 2, "max_output_tokens": 4}
    assert ask(scripted.port, "POST", RESPONSES, body).json()["output"][0]["content"][0]["text"] == "ab"


def test_a_prompt_is_read_anew_without_the_cache(scripted: ServerProcess) -> None:
    """It may be used again all the same, as llama-server does."""
    text = "y" * 700 + say("a")

    def cached(path: str, body: dict[str, Any], **fields: object) -> int:
        usage = ask(scripted.port, "POST", path, {**body, **fields}).json()["usage"]
        name = "input_tokens_details" if path == RESPONSES else "prompt_tokens_details"
        found: int = usage[name]["cached_tokens"]
        return found

    for path, body in ((CHAT, chat(text)), (TEXT, {"prompt": "1" + text}), (RESPONSES, {"input": "2" + text})):
        assert cached(path, body, cache_prompt=False) == 0
        assert cached(path, body) > 600
        assert cached(path, body, cache_prompt=False) == 0
        assert cached(path, body, cache_prompt=True) > 600


def test_n_cmpl_and_n_probs(scripted: ServerProcess) -> None:
    body = ask(scripted.port, "POST", CHAT, chat(say("ab"), n_cmpl=3, n_probs=2)).json()
    assert [one["index"] for one in body["choices"]] == [0, 1, 2]
    assert [len(entry["top_logprobs"]) for entry in body["choices"][2]["logprobs"]["content"]] == [2, 2]
    found = text_choice(scripted, say("ab"), n_probs=1)["logprobs"]
    assert found["tokens"] == ["a", "b"]
    assert text_choice(scripted, say("ab"), n_probs=0)["logprobs"] is None


def test_the_stop_string_may_be_part_of_the_reply(scripted: ServerProcess) -> None:
    fields = {"stop": ["END"], "include_stop_str_in_output": True}
    assert choice(scripted, say("one END two"), **fields)["message"]["content"] == "one END"
    reply = ask(scripted.port, "POST", CHAT, chat(say("one END two"), stream=True, **fields))
    assert chat_stream(reply).text == ["one END"]
    reply = ask(scripted.port, "POST", TEXT, {"prompt": say("one END two"), "stream": True, **fields})
    assert text_stream(reply).text == ["one END"]


def test_a_banned_token_is_never_chosen(scripted: ServerProcess) -> None:
    for bias in ([[ord("b"), False]], {str(ord("b")): False}):
        said = text_choice(scripted, say("abc"), logit_bias=bias, max_tokens=3)["text"]
        assert said[0] == "a"
        assert said[1] != "b"


def test_a_seed_of_minus_one_is_any(scripted: ServerProcess) -> None:
    fields = {"logit_bias": {str(ord("a")): -100}, "max_tokens": 12, "temperature": 2, "top_k": 0, "min_p": 0}
    said = {text_choice(scripted, say("a" * 12), seed=-1, **fields)["text"] for _ in range(4)}
    assert len(said) > 1
    assert ask(scripted.port, "POST", CHAT, chat(say("a"), seed=-1, n=2)).status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(say("a"), seed=-2, n=4)),
        (TEXT, {"prompt": say("a"), "seed": -2, "n": 4}),
        ("/completion", {"prompt": say("a"), "seed": -2, "n": 4}),
    ],
)
def test_seeds_of_several_choices_wrap_around(scripted: ServerProcess, path: str, body: dict[str, Any]) -> None:
    # -2 is the second largest unsigned seed, so the third choice's would be over 64 bits.
    reply = ask(scripted.port, "POST", path, body)
    assert reply.status == 200
    assert len(reply.json() if path == "/completion" else reply.json()["choices"]) == 4
    wait_for("all requests to end", lambda: metric(scripted.port, "vllm:num_requests_running") == 0)


def test_reasoning_where_the_request_asks_for_it(scripted: ServerProcess) -> None:
    text = say("<think>why</think>so")
    assert choice(scripted, text, reasoning_format="none")["message"]["content"] == "<think>why</think>so"
    assert choice(scripted, text, reasoning_format="deepseek")["message"]["reasoning_content"] == "why"
    hidden = choice(scripted, text, include_reasoning=False)["message"]
    assert (hidden["content"], "reasoning_content" in hidden) == ("so", False)
    told = chat_stream(ask(scripted.port, "POST", CHAT, chat(text, include_reasoning=False, stream=True)))
    assert (told.text, told.reasoning) == (["so"], [""])


def test_keep_alives_at_the_requested_interval(slow: ServerProcess) -> None:
    """Without them the stream has one chunk for each token; the server's own come every 0.3 s."""
    text = "z" * 1500 + say("ab")  # read 64 tokens a step: about half a second

    def chunks(**fields: object) -> int:
        return len(ask(slow.port, "POST", CHAT, chat(text, stream=True, cache_prompt=False, **fields)).chunks)

    assert chunks(sse_ping_interval=-1) == 5  # role, two tokens, the end and [DONE]
    assert chunks() > 5


def test_a_prompt_without_the_tokens_around_it(scripted: ServerProcess) -> None:
    """The scripted model puts one token behind a text, and says nothing without it."""

    def ask_for(**fields: object) -> dict[str, Any]:
        body: dict[str, Any] = ask(scripted.port, "POST", TEXT, {"prompt": ["ab", "cd"], **fields}).json()
        return body

    for fields in ({}, {"echo": True, "max_tokens": 0}):
        usual, bare = ask_for(**fields), ask_for(add_special_tokens=False, **fields)
        assert bare["usage"]["prompt_tokens"] == usual["usage"]["prompt_tokens"] - 2 == 4
    echoed = ask_for(add_special_tokens=False, echo=True, logprobs=1, max_tokens=0)["choices"]
    assert [one["text"] for one in echoed] == ["ab", "cd"]
    assert [one["logprobs"]["tokens"] for one in echoed] == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": True}, {"temperature": 0}, {"response_format": {"type": "text"}}], ids=str
)
def test_a_reply_has_its_least_length(scripted: ServerProcess, fields: dict[str, object]) -> None:
    """The script ends after two tokens; what ends it can't be chosen before the tenth."""
    body = ask(scripted.port, "POST", CHAT, chat(say("ab"), min_tokens=10, **fields)).json()
    assert body["choices"][0]["message"]["content"].startswith("ab")
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] > 10


def test_no_stop_string_or_token_ends_a_reply_before_its_least_length(scripted: ServerProcess) -> None:
    assert text_choice(scripted, say("abcab"), min_tokens=2, stop=["a"])["text"] == "abc"
    assert text_choice(scripted, say("ab"), min_tokens=1, stop_token_ids=[ord("a")], max_tokens=3)["text"][:1] != "a"


def test_a_grammar_ends_where_it_ends(scripted: ServerProcess) -> None:
    body = ask(scripted.port, "POST", CHAT, chat(say("ok"), min_tokens=10, guided_choice=["ok"])).json()
    assert body["choices"][0]["message"]["content"] == "ok"


def test_a_least_length_over_the_limit_is_refused(scripted: ServerProcess) -> None:
    for path, body in (
        (CHAT, chat("a", max_tokens=5, min_tokens=6)),
        (TEXT, {"prompt": "a", "min_tokens": 17}),
        (RESPONSES, {"input": "a", "max_output_tokens": 5, "min_tokens": 6}),
    ):
        reply = ask(scripted.port, "POST", path, body)
        assert (reply.status, reply.error()["param"]) == (400, "min_tokens")


HINTS = ["low", "medium", "high"]


@pytest.mark.parametrize("verbosity", HINTS)
def test_verbosity_is_a_hint(scripted: ServerProcess, verbosity: str) -> None:
    assert choice(scripted, say("a"), verbosity=verbosity)["message"]["content"] == "a"
    body = {"input": say("a"), "text": {"verbosity": verbosity}}
    reply = ask(scripted.port, "POST", RESPONSES, body)
    assert (reply.status, reply.json()["text"]["verbosity"]) == (200, verbosity)


@pytest.mark.parametrize("kind", ["auto", "concise", "detailed", "brief"])
def test_every_kind_of_summary_has_the_whole_reasoning(scripted: ServerProcess, kind: str) -> None:
    for name in ("summary", "generate_summary"):
        body = {"input": say("<think>why</think>so"), "reasoning": {name: kind}}
        reply = ask(scripted.port, "POST", RESPONSES, body).json()
        assert reply["output"][0]["summary"] == [{"type": "summary_text", "text": "why"}]
        assert reply["reasoning"]["summary"] == (None if kind == "brief" else kind)


def test_no_summary(scripted: ServerProcess) -> None:
    body = {"input": say("<think>why</think>so"), "reasoning": {"summary": "none"}}
    reply = ask(scripted.port, "POST", RESPONSES, body).json()
    assert reply["output"][0]["content"] == [{"type": "reasoning_text", "text": "why"}]


@pytest.mark.parametrize("stop", ["", [""], ["", "zzz"]])
def test_an_empty_stop_string_is_none(scripted: ServerProcess, stop: object) -> None:
    assert choice(scripted, say("abc"), stop=stop)["message"]["content"] == "abc"
    assert text_choice(scripted, say("abc"), stop=stop)["text"] == "abc"
    body = {"input": say("abc"), "stop": stop, "store": False}
    assert ask(scripted.port, "POST", RESPONSES, body).json()["output"][0]["content"][0]["text"] == "abc"
    body = {"model": "fake", "prompt": say("abc"), "options": {"stop": stop}, "stream": False}
    assert ask(scripted.port, "POST", "/api/generate", body).json()["response"] == "abc"


def test_many_stop_strings(scripted: ServerProcess) -> None:
    stops = [f"\n{name}{number}:" for number in range(300) for name in ("User", "Bot")]
    assert choice(scripted, say("one\nBot299: two"), stop=stops)["message"]["content"] == "one"
    body = chat(say("one\nBot299: two"), max_tokens=99, model="fake", stop_sequences=stops)
    assert ask(scripted.port, "POST", "/v1/messages", body).json()["stop_sequence"] == "\nBot299:"


def test_parts_by_the_names_of_other_apis_are_read(scripted: ServerProcess) -> None:
    parts = [
        {"type": "input_text", "text": "one"},
        {"type": "output_text", "text": "two", "annotations": []},
        {"type": "thinking", "thinking": "three"},
        {"type": "refusal", "refusal": "four"},
    ]
    reply = ask(scripted.port, "POST", CHAT, {"messages": [{"role": "user", "content": parts}], "max_tokens": 100})
    assert reply.json()["choices"][0]["message"]["content"] == "[user]one\ntwo\nthree\nfour\n"
