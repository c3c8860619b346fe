"""The text completion's stream and body."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from statistics import fmean

import pytest

from openai_wire import Reply, ask, check_usage, say, text_stream
from servers import ServerProcess, serving


def complete(server: ServerProcess, prompt: object, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/completions", {"prompt": prompt, "max_tokens": 1000, **fields})


def test_complete_stream_byte_for_byte(scripted: ServerProcess) -> None:
    reply = complete(scripted, "<say>ab</say>", stream=True, stream_options={"include_usage": True})
    text_stream(reply)
    first = json.loads(reply.chunks[0][6:])
    assert first["id"].startswith("cmpl-")
    head = (
        b'data: {"id":"%b","object":"text_completion","created":%d,"model":"fake","system_fingerprint":"%b","choices":['
        % (
            first["id"].encode(),
            first["created"],
            first["system_fingerprint"].encode(),
        )
    )
    *chunks, usage_chunk, done = reply.chunks
    assert chunks == [
        head + b'{"index":0,"text":"","finish_reason":null}]}\n\n',
        head + b'{"index":0,"text":"a","finish_reason":null}]}\n\n',
        head + b'{"index":0,"text":"b","finish_reason":null}]}\n\n',
        head + b'{"index":0,"text":"","finish_reason":"stop"}]}\n\n',
    ]
    assert usage_chunk.startswith(head + b'],"usage":{"prompt_tokens":14,"completion_tokens":3,"total_tokens":17,')
    assert done == b"data: [DONE]\n\n"


def test_no_usage_unless_requested(scripted: ServerProcess) -> None:
    assert text_stream(complete(scripted, "<say>a</say>", stream=True)).usage is None


def test_the_reference_gives_sixteen_tokens(scripted: ServerProcess) -> None:
    stream = text_stream(complete(scripted, "<say>0123456789abcdefXYZ</say>", stream=True, max_tokens=None))
    assert (stream.text, stream.finish) == (["0123456789abcdef"], ["length"])


@pytest.mark.parametrize("text", ["naïve", "🏳️‍🌈", "<think>no markup here</think><tool_call>{}</tool_call>", "\r\n\0"])
def test_text_is_text(scripted: ServerProcess, text: str) -> None:
    assert text_stream(complete(scripted, say(text), stream=True)).text == [text]


def test_no_line_is_too_long(scripted: ServerProcess) -> None:
    """A stop string that never comes holds the text back, then lets it go at once."""
    held = "\x01" * 1000
    stream = complete(scripted, say(held), stream=True, stop=held + "X", logprobs=20)
    assert text_stream_text(stream) == held


def text_stream_text(reply: Reply) -> str:
    assert all(len(chunk) < 60_000 for chunk in reply.chunks)
    return "".join(json.loads(chunk[6:])["choices"][0]["text"] for chunk in reply.chunks[:-1])


def test_stop_strings(scripted: ServerProcess) -> None:
    reply = complete(scripted, "<say>one two END</say>", stream=True, stop=["END", "w"])
    assert text_stream(reply).text == ["one t"]


def test_every_form_of_prompt(scripted: ServerProcess) -> None:
    """Text, texts, token ids, lists of token ids; each prompt times n is a choice."""
    said = [*b"<say>b</say>", 257]
    assert text_stream(complete(scripted, said, stream=True)).text == ["b"]
    assert text_stream(complete(scripted, [said, said], stream=True), choices=2).text == ["b", "b"]
    prompts = ["<say>a</say>", "<say>b</say>"]
    assert text_stream(complete(scripted, prompts, stream=True, n=2), choices=4).text == ["a", "a", "b", "b"]
    body = complete(scripted, prompts, n=2).json()
    assert [choice["text"] for choice in body["choices"]] == ["a", "a", "b", "b"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 2 * 14 - 2, "each prompt counts once"
    assert body["usage"]["completion_tokens"] == 4 * 2


def test_complete_reply(scripted: ServerProcess) -> None:
    body = complete(scripted, "<say>ab</say>").json()
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}]
    check_usage(body["usage"])


def test_log_probabilities(scripted: ServerProcess) -> None:
    (choice,) = complete(scripted, "<say>abc</say>", logprobs=2).json()["choices"]
    found = choice["logprobs"]
    assert found["tokens"] == ["a", "b", "c"]
    assert found["text_offset"] == [0, 1, 2]
    assert len(found["token_logprobs"]) == len(found["top_logprobs"]) == 3
    assert found["top_logprobs"][1]["b"] == found["token_logprobs"][1]
    streamed = [
        json.loads(c[6:])["choices"][0]
        for c in complete(scripted, "<say>abc</say>", logprobs=0, stream=True).chunks[:-1]
    ]
    entries = [choice["logprobs"] for choice in streamed if "logprobs" in choice]
    assert [offset for entry in entries for offset in entry["text_offset"]] == [0, 1, 2]


def test_the_real_model(real: ServerProcess) -> None:
    fields = {"temperature": 0, "max_tokens": 8}
    stream = text_stream(complete(real, "The capital of France is", stream=True, **fields))
    assert "Paris" in stream.text[0]
    assert complete(real, "The capital of France is", **fields).json()["choices"][0]["text"] == stream.text[0]


# What stands around the reply: the prompt, a suffix, and replies that aren't shown


def test_the_prompt_is_repeated(scripted: ServerProcess) -> None:
    prompts = ["1<say>ab</say>", "é<say>c</say>"]
    body = complete(scripted, prompts, echo=True, n=2).json()
    whole = [prompts[0] + "ab", prompts[0] + "ab", prompts[1] + "c", prompts[1] + "c"]
    assert [choice["text"] for choice in body["choices"]] == whole
    assert text_stream(complete(scripted, prompts, echo=True, n=2, stream=True), choices=4).text == whole
    long = "x" * 100_000 + "<say>a</say>"
    assert text_stream(complete(scripted, long, echo=True, stream=True)).text == [long + "a"]
    assert complete(scripted, [*b"<say>b</say>", 257], echo=True).json()["choices"][0]["text"] == "<say>b</say><start>b"


def test_the_prompts_tokens_have_probabilities(scripted: ServerProcess) -> None:
    (choice,) = complete(scripted, "<say>é</say>", echo=True, logprobs=3).json()["choices"]
    found = choice["logprobs"]
    assert len({len(values) for values in found.values()}) == 1
    assert found["tokens"][:5] == ["<", "s", "a", "y", ">"]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert found["token_logprobs"][1] == pytest.approx(-math.log(261))
    assert all(len(top) >= 1 for top in found["top_logprobs"][1:])
    assert found["text_offset"][:8] == [0, 1, 2, 3, 4, 5, 5, 6], "both bytes of a character stand at its place"
    # The reply's own come behind, certain as the script is.
    assert found["token_logprobs"][-2:] == pytest.approx([0, 0])
    assert found["text_offset"][-2] == len("<say>é</say>")


def test_the_prompts_probabilities_can_be_streamed(scripted: ServerProcess) -> None:
    prompt = "y" * 3000 + "<say>ab</say>"
    whole = complete(scripted, prompt, echo=True, logprobs=5).json()["choices"][0]
    reply = complete(scripted, prompt, echo=True, logprobs=5, stream=True)
    assert all(len(chunk) < 60_000 for chunk in reply.chunks)
    choices = [json.loads(chunk[6:])["choices"][0] for chunk in reply.chunks[:-1]]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    for name, values in whole["logprobs"].items():
        streamed = [value for choice in choices if "logprobs" in choice for value in choice["logprobs"][name]]
        assert streamed == values, name


def test_max_tokens_0_echoes_the_prompt(scripted: ServerProcess) -> None:
    body = complete(scripted, [[97, 98, 257], [5, 6, 7]], echo=True, max_tokens=0).json()
    assert [choice["text"] for choice in body["choices"]] == ["ab<start>", "\x05\x06\x07"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "length"]
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == 3 + 3
    assert complete(scripted, "ab", echo=True, max_tokens=0).json()["usage"]["prompt_tokens"] == 3
    scored = complete(scripted, "ab", echo=True, max_tokens=0, logprobs=1).json()["choices"][0]["logprobs"]
    assert len(scored["tokens"]) == 3


def test_a_prompts_probabilities_are_the_models(real: ServerProcess) -> None:
    """A greedy reply, given as the prompt, has the probabilities that it had as a reply."""
    fields = {"temperature": 0, "max_tokens": 6, "logprobs": 1}
    said = complete(real, "The capital of France is", **fields).json()["choices"][0]
    prompt = "The capital of France is" + said["text"]
    (choice,) = complete(real, prompt, echo=True, **(fields | {"max_tokens": 0})).json()["choices"]
    assert choice["text"] == prompt
    count = len(said["logprobs"]["tokens"])
    assert choice["logprobs"]["tokens"][-count:] == said["logprobs"]["tokens"]
    # Prompts' tokens and replies' go through different code, and activations are rounded in every layer: a difference
    # in the last bits becomes a tenth now and then. Another token's would be whole numbers away.
    assert choice["logprobs"]["token_logprobs"][-count:] == pytest.approx(said["logprobs"]["token_logprobs"], abs=0.4)
    assert choice["logprobs"]["text_offset"][-count:] == [
        place + len("The capital of France is") for place in said["logprobs"]["text_offset"]
    ]


def test_what_is_between_is_filled_in(scripted: ServerProcess) -> None:
    """The scripted model's prompt is what it says: prefix and suffix, between its tokens for them."""
    reply = complete(scripted, "def f():\n", suffix="\n    return x")
    assert reply.json()["choices"][0]["text"] == "def f():\n\n    return x"
    assert reply.json()["usage"]["prompt_tokens"] == len("def f():\n\n    return x") + 3
    assert text_stream(complete(scripted, [*b"a"], suffix="b", stream=True)).text == ["ab"]
    assert complete(scripted, "<say>a</say>", suffix="").json()["choices"][0]["text"] == "a"


def test_a_model_without_infill_refuses_a_suffix(real: ServerProcess) -> None:
    reply = complete(real, "a", suffix="b")
    assert (reply.status, reply.error()["param"]) == (400, "suffix")


@pytest.fixture(scope="module")
def exact() -> Iterator[ServerProcess]:
    """The starter model with llama.cpp's kernels: each sequence has cells of its own, in order, so that what it is
    rounded to doesn't depend on what was asked before.
    """
    with serving("--ctx", "2048", "--parallel", "4", "--threads", "1", "--kernels", "off") as server:
        yield server


def test_the_best_of_several(exact: ServerProcess) -> None:
    """The chosen replies are the likeliest among all: those that the same seeds give."""
    fields = {"max_tokens": 8, "seed": 5, "temperature": 1.5, "logprobs": 0}
    every = complete(exact, "Once upon a time", n=4, **fields).json()
    likeliest = sorted(every["choices"], key=lambda choice: -fmean(choice["logprobs"]["token_logprobs"]))
    best = complete(exact, "Once upon a time", n=2, best_of=4, **fields).json()
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in likeliest[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == every["usage"]["completion_tokens"], (
        "what isn't shown was computed all the same"
    )
    plain = complete(exact, "Once upon a time", best_of=4, **(fields | {"logprobs": None})).json()["choices"]
    assert [choice["text"] for choice in plain] == [likeliest[0]["text"]]
    assert plain[0]["logprobs"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "stream": True}, "max_tokens"),
        ({"echo": True, "logprobs": 1, "suffix": "a"}, "echo"),
        ({"best_of": 128, "prompt": ["a", "b"]}, "prompt"),
    ],
)
def test_what_does_not_go_together_is_named(scripted: ServerProcess, fields: dict[str, object], param: str) -> None:
    reply = ask(scripted.port, "POST", "/v1/completions", {"prompt": "a", **fields})
    assert (reply.status, reply.error()["param"]) == (400, param)


def test_each_reply_is_one_choice(scripted: ServerProcess) -> None:
    assert text_stream(complete(scripted, "<say>a</say>", n=2, best_of=2, stream=True), choices=2).text == ["a", "a"]


# Log probabilities of tokens that are no text by themselves


@pytest.mark.parametrize(
    ("text", "fields"),
    [("🎉🎉", {}), ("aé🎉b", {}), ("one END two", {"stop": "END"}), ("aé🎉b", {"stop": "🎉"}), ("é", {"echo": True})],
    ids=str,
)
def test_streamed_log_probabilities_are_the_whole_reply_s(
    scripted: ServerProcess, text: str, fields: dict[str, object]
) -> None:
    whole = complete(scripted, say(text), logprobs=5, **fields).json()["choices"][0]
    found = whole["logprobs"]
    chunks = complete(scripted, say(text), logprobs=5, stream=True, **fields).chunks[:-1]
    choices = [json.loads(chunk[6:])["choices"][0] for chunk in chunks]
    for name, values in found.items():
        streamed = [value for choice in choices if "logprobs" in choice for value in choice["logprobs"][name]]
        assert streamed == values, name
    assert all(0 <= place <= len(whole["text"]) for place in found["text_offset"])
    assert found["text_offset"] == sorted(found["text_offset"])
    for token, value, likely in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        if value is not None:
            assert likely[token] == value
            assert len(likely) in (5, 6)


def test_tokens_within_a_character_have_distinct_labels(scripted: ServerProcess) -> None:
    found = complete(scripted, say("🎉!"), logprobs=5).json()["choices"][0]["logprobs"]
    assert found["tokens"] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x8e", "bytes:\\x89", "!"]
    assert found["text_offset"] == [0, 0, 0, 0, 1]


def test_the_chosen_token_is_listed_with_the_likeliest(scripted: ServerProcess) -> None:
    """The script's byte is the likeliest by far; banned, another one is chosen."""
    fields = {"logprobs": 2, "logit_bias": {str(ord("a")): False}, "max_tokens": 1, "temperature": 1.5, "top_k": 0}
    for seed in range(3):
        (choice,) = complete(scripted, say("a"), seed=seed, min_p=0, top_p=1, **fields).json()["choices"]
        found = choice["logprobs"]
        assert found["top_logprobs"][0][found["tokens"][0]] == found["token_logprobs"][0]
        assert "a" in found["top_logprobs"][0]
