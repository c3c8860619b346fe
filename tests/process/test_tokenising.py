"""Tokens equal llama.cpp's own, and no text harms the process that runs the model."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_files import with_pre, write_bert, write_vocab
from servers import wait_for
from tailrace.engine.backends.llama.llama_vocab import LlamaVocab, load_vocab
from tailrace.engine.backends.llama.model_loader import redirect_log
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.tokenizer_sandbox import TextNotTokenizable, TokenizerProcess
from tailrace.engine.tokenising.vocab import tokens_of
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
#: One name for each set of regular expressions that llama.cpp has.
PRE = (
    "default llama3 jais-2 deepseek-llm deepseek-coder deepseek-v3 spark2_5 youtu falcon gpt-2 qwen2 qwen35 poro-chat "
    "viking tekken smollm chameleon gpt-4o tiny_aya superbpe bailingmoe seed-coder kimi-k2 ufakzeka afmoe laguna "
    "exaone-moe minicpm5 gemma4 sarvam-moe whitespace"
)
#: What overflows a thread's stack of 8 MB, with one of them or another.
LONG = {
    "letters": "A" * 30_000,
    "dashes": "-" * 40_000,
    "spaces": " " * 40_000,
    "lines": "\n" * 40_000,
    "cjk": "漢" * 40_000,
}


def _bytes() -> list[tuple[str, float, int]]:
    return [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]


def _spm(path: Path, **ids: int) -> Path:
    """Special tokens that overlap, that consist of spaces, and that strip the white space after them."""
    words = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<|endoftext|>", 0.0, CONTROL)]
    words += [("<|user|>", 0.0, CONTROL), ("<|user", 0.0, USER_DEFINED), ("|>a", 0.0, CONTROL)]
    words += [(" " * count, 0.0, USER_DEFINED) for count in (2, 3, 5)]
    words += [(letter, -1.0, NORMAL) for letter in "▁ab<|>user\n"] + [("▁a", -0.5, NORMAL), ("ab", -0.4, NORMAL)]
    return write_vocab(path, "llama", [*words, *_bytes()], name="phi-3", bos_token_id=1, eos_token_id=2, **ids)


def _unigram(path: Path) -> Path:
    words = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN), ("<x>", 0.0, USER_DEFINED)]
    words += [(letter, -2.0, NORMAL) for letter in "▁abc"] + [("▁ab", -1.0, NORMAL)]
    return write_vocab(path, "t5", words, eos_token_id=1, add_eos_token=1)


VOCABULARIES: dict[str, Callable[[Path], Path]] = {
    "smollm": lambda path: with_pre(locate_model(STARTER_MODEL).path, path, "smollm"),
    "gpt-4o": lambda path: with_pre(locate_model(STARTER_MODEL).path, path, "gpt-4o"),
    "tekken": lambda path: with_pre(locate_model(STARTER_MODEL).path, path, "tekken"),
    "deepseek-v3": lambda path: with_pre(locate_model(STARTER_MODEL).path, path, "deepseek-v3"),
    "spm": lambda path: _spm(path, add_bos_token=1),
    "spm-ends": lambda path: _spm(path, add_bos_token=1, add_eos_token=1),
    "bert": write_bert,
    "unigram": _unigram,
}


@pytest.fixture(scope="module", params=VOCABULARIES)
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LlamaVocab:
    redirect_log(None)
    return load_vocab(VOCABULARIES[request.param](tmp_path_factory.mktemp("vocab") / f"{request.param}.gguf"))


def test_tokens_are_llama_cpps_own(vocab: LlamaVocab) -> None:
    names = [vocab.special_text(token) for token in range(vocab.size) if not vocab.piece(token, special=False)]
    names = [*{name for name in names if name}, "<|user", "<x>", "|>a"][:24]
    atoms = [
        *names,
        " ",
        "  ",
        "   ",
        "\n",
        "a",
        "ab",
        "Hello",
        "don't",
        "世界",
        "é",
        "\t",
        "1234",
        "<|im",
        "|>",
        "<",
        "!?",
        "🎉",
        "e\u0301",
    ]
    dice = random.Random(0)
    for _ in range(120):
        text = "".join(dice.choice(atoms) for _ in range(dice.randrange(24)))
        for special in (False, True):
            for start in (False, True):
                theirs = vocab.tokenize(text, parse_special=special, add_special=start)
                assert tokens_of(vocab, TokenizerInput(text, parse_special=special, add_special=start)) == theirs, (
                    text,
                    special,
                    start,
                )


def test_a_literal_span_is_text(vocab: LlamaVocab) -> None:
    """The segments between recognised special tokens have llama.cpp's tokens of each segment alone."""
    names = [vocab.special_text(token) for token in range(vocab.size) if not vocab.piece(token, special=False)]
    (name, *_) = sorted((name for name in names if name), key=len, reverse=True)
    token = vocab.tokenize(name, parse_special=True, add_special=False)
    text = f"a {name}b{name} ab"
    begin = text.index(name)
    found = tokens_of(vocab, TokenizerInput(text, add_special=False, literal_spans=((begin, begin + len(name)),)))
    head = vocab.tokenize(f"a {name}b", parse_special=False, add_special=False)
    tail = text[text.rindex(name) + len(name) :]
    rest = tokens_of(vocab, TokenizerInput(name + tail, add_special=False))
    assert found == head + rest
    assert rest[: len(token)] == token
    every = tokens_of(vocab, TokenizerInput(text, add_special=False, literal_spans=((0, len(text)),)))
    assert every == vocab.tokenize(text, parse_special=False, add_special=False)


@pytest.fixture(scope="module", params=["smollm", "gpt-4o", "tekken", "deepseek-v3"])
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenizerProcess]:
    made = TokenizerProcess(VOCABULARIES[request.param](tmp_path_factory.mktemp("vocab") / f"{request.param}.gguf"))
    yield made
    made.close()


def test_long_runs_are_tokenised(process: TokenizerProcess) -> None:
    for number, (name, text) in enumerate(LONG.items()):
        (tokens,) = process.run(number, [TokenizerInput(text)])
        assert tokens, name


def test_a_text_that_ends_its_worker_fails_one_request(tmp_path: Path) -> None:
    """Without byte encoding, llama.cpp asserts that no two spaces meet; on other things it takes quadratic time."""
    broken = TokenizerProcess(with_pre(locate_model(STARTER_MODEL).path, tmp_path / "whitespace.gguf", "whitespace"))
    try:
        with pytest.raises(TextNotTokenizable) as caught:
            broken.run(1, [TokenizerInput("well"), TokenizerInput("a  b", "suffix")])
        assert caught.value.field == "suffix"
        assert broken.run(2, [TokenizerInput("ab")])
    finally:
        broken.close()


def test_quadratic_time_is_bounded(tmp_path: Path) -> None:
    slow = TokenizerProcess(with_pre(locate_model(STARTER_MODEL).path, tmp_path / "superbpe.gguf", "superbpe"))
    try:
        with pytest.raises(TextNotTokenizable, match="more than 2 s"):
            slow.run(1, [TokenizerInput("1" * 40_000)])
        assert slow.run(2, [TokenizerInput("ab")])
    finally:
        slow.close()


def test_special_tokens_take_linear_time(process: TokenizerProcess) -> None:
    """960 KB: llama.cpp's own search takes minutes, and the limit is 10 s."""
    (tokens,) = process.run(1, [TokenizerInput("<|im_start|>" * 80_000)])
    assert tokens == [1] * 80_000


def test_a_job_can_be_ended_and_so_can_the_process() -> None:
    vocabulary = locate_model(STARTER_MODEL).path
    process = TokenizerProcess(vocabulary)
    text = TokenizerInput("The tide comes in twice a day. " * 60_000)  # Seconds of work.
    try:
        assert process.run(1, [TokenizerInput("ab")]) == [[369]]
        assert process._process is not None
        program = process._process.pid
        caught: list[TextNotTokenizable] = []

        def work() -> None:
            try:
                process.run(2, [text])
            except TextNotTokenizable as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        # It is killed as soon as it runs, so it can't have ended by itself.
        while thread.is_alive():
            process.kill(2)
            thread.join(0.01)
        assert caught
        assert process.run(3, [TokenizerInput("ab")]) == [[369]]
        os.kill(program, signal.SIGKILL)
        assert process.run(4, [TokenizerInput("ab")]) == [[369]]
        assert process._process.pid != program
        wait_for("its workers' end", lambda: not _children(program))
    finally:
        process.close()


def _children(process: int) -> list[str]:
    shown = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in shown.splitlines() if line.split()[1] == str(process)]


_SHORT = """
import os, sys, threading
from pathlib import Path
from tailrace.engine.backends.llama.model_loader import redirect_log
from tailrace.engine.backends.llama.llama_vocab import load_vocab
from tailrace.engine.tokenising.jobs import TokenizerInput
redirect_log(None)
runs = [character * 4096 for character in "A-\\n 漢1\\u0301\\t'a\\x00\\U0001f389"]
runs += ["aA" * 2048, " " * 4095 + "1", "a " * 2048]
texts = [TokenizerInput(run) for run in runs]
threading.stack_size(8 * 1024**2)  # A quarter of what the intake has.
def work(vocab):
    assert not vocab.can_tokenize_inline([TokenizerInput("a" * 4097)])
    assert not vocab.can_tokenize_inline([TokenizerInput("<|im_end|>" * 65)])
    short = [text for text in texts if vocab.can_tokenize_inline([text])]
    print(Path(path).stem, sum(len(vocab.tokenize_segment(text.text)) for text in short), flush=True)
for path in sys.argv[1:]:
    if not (child := os.fork()):
        thread = threading.Thread(target=work, args=(load_vocab(Path(path)),))
        thread.start()
        thread.join()
        os._exit(0)
    print(Path(path).stem, "ended", os.waitpid(child, 0)[1], flush=True)
"""


def test_inline_texts_are_safe(tmp_path: Path) -> None:
    paths = [with_pre(locate_model(STARTER_MODEL).path, tmp_path / f"{pre}.gguf", pre) for pre in PRE.split()]
    shown = subprocess.run([sys.executable, "-c", _SHORT, *paths], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert {line[0]: line[2] for line in lines if len(line) == 3 and line[2] != "0"} == {}, "some were ended"
    counts = {line[0]: int(line[1]) for line in lines if len(line) == 2}
    unsafe = {"deepseek-llm", "superbpe", "gemma4", "sarvam-moe", "whitespace"}
    assert {name for name, count in counts.items() if not count} == unsafe
    assert len(counts) == len(paths)
