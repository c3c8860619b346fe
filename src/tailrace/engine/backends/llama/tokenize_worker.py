"""The program that tokenises for the engine: it loads a model's vocabulary, and forks a worker for each job.

llama.cpp's tokenizers can overflow the stack, abort, or take quadratic time on some texts. Here that ends only the
worker that has the text. Workers share the vocabulary's memory with this process. A fork takes 6 ms, so a worker that
has done a job of usual size waits for the next one.

Started as ``python -m tailrace.engine.backends.llama.tokenize_worker MODEL OVERRIDES``, the latter of the model's
metadata, in JSON, with a socket as its standard input. The socket brings records of ``RECORD``. ``TOKENISE`` comes with
the job's own socket. The job's worker reads a ``TokenizeJob`` from that, and answers with one ``TokenIds`` for each
text. If the worker dies, the last answers are missing.
"""

from __future__ import annotations

import array
import contextlib
import gc
import os
import resource
import selectors
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import NamedTuple

import msgspec

from tailrace.child import SANDBOX_OOM_POINTS, raise_oom_score
from tailrace.engine.backends.llama.llama_vocab import LlamaVocab, load_vocab
from tailrace.engine.backends.llama.model_loader import redirect_log
from tailrace.engine.tokenising.control_records import KILL, RECORD, TOKENISE
from tailrace.engine.tokenising.jobs import TokenIds, TokenizeJob, total_characters
from tailrace.engine.tokenising.text_limits import MEMORY_BYTES, MEMORY_PER_CHARACTER, cpu_seconds, stack_bytes
from tailrace.engine.tokenising.vocab import tokens_of
from tailrace.ipc import FrameDecoder, frame
from tailrace.models.metadata_override import MetadataOverride
from tailrace.own_process.address_space import limit_growth
from tailrace.own_process.parent_death import die_with_parent

#: A worker that has done a job of up to so many characters waits for the next: its memory stays small.
_REUSABLE = 65_536
#: See ``raise_oom_score``: where memory runs out, a worker goes before all other processes.
_FIRST = 1000
#: How much less of a busy CPU a longer job gets than the threads that compute replies: a quarter of an equal share.
_NICE = 6


def main() -> None:
    """Serve until the engine closes the socket."""
    die_with_parent()
    raise_oom_score(SANDBOX_OOM_POINTS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The engine ends this process, also when a terminal sends SIGINT.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    redirect_log(None)
    vocab = load_vocab(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=tuple[MetadataOverride, ...]))
    # Tables that the first text would make are made now, so all workers share them.
    vocab.warm_up()
    vocab.specials.split("a")
    gc.collect()
    gc.freeze()  # Objects that the collector never touches stay shared with the workers.
    ForkServer(control, vocab).run()


class Worker(NamedTuple):
    """A process that does one job at a time."""

    process: int  #: its id
    channel: socket.socket  #: sends it the socket of a job, and receives a byte when the job is done


class ForkServer:
    """Forks the workers. Its process has one thread, because only such a process may fork."""

    def __init__(self, control: socket.socket, vocab: LlamaVocab) -> None:
        self._control = control
        self._vocab = vocab
        self._busy: dict[int, Worker] = {}  #: by job
        self._idle: list[Worker] = []

    def run(self) -> None:
        """Return when the engine closes the socket. Workers that still run are killed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    worker: Worker | None = key.data
                    if worker is not None:
                        if not self._read_worker(worker):
                            selector.unregister(worker.channel)
                            worker.channel.close()
                    elif not self._read_order(selector):
                        for each in (*self._busy.values(), *self._idle):
                            os.kill(each.process, signal.SIGKILL)
                        return

    def _read_order(self, selector: selectors.BaseSelector) -> bool:
        """Read one record of the engine's; False where the socket is closed."""
        data, sockets, _, _ = socket.recv_fds(self._control, RECORD.size, 1)
        if len(data) < RECORD.size:
            return False
        kind, job = RECORD.unpack(data)
        if kind == TOKENISE:
            with socket.socket(fileno=sockets[0]) as answers:
                worker = self._idle.pop() if self._idle else self._fork(selector, answers)
                self._busy[job] = worker
                with contextlib.suppress(BrokenPipeError):  # The worker has just died: the job ends without an answer.
                    socket.send_fds(worker.channel, [b"j"], [answers.fileno()])
        elif kind == KILL and job in self._busy:
            # The process hasn't been waited for, so its number can't be another's.
            os.kill(self._busy[job].process, signal.SIGKILL)
        return True

    def _read_worker(self, worker: Worker) -> bool:
        """The worker has finished its job; False where it has died."""
        try:
            alive = bool(worker.channel.recv(1))
        except ConnectionResetError:
            alive = False
        self._busy = {job: each for job, each in self._busy.items() if each is not worker}
        if alive:
            self._idle.append(worker)
            return True
        self._idle = [each for each in self._idle if each is not worker]
        os.waitpid(worker.process, 0)
        return False

    def _fork(self, selector: selectors.BaseSelector, answers: socket.socket) -> Worker:
        server_end, worker_end = socket.socketpair()
        process = os.fork()
        if process:
            worker_end.close()
            worker = Worker(process, server_end)
            selector.register(server_end, selectors.EVENT_READ, worker)
            return worker
        try:
            # A socket stays open as long as any process has it: its other end would wait.
            others = (each.channel for each in (*self._busy.values(), *self._idle))
            for inherited in (server_end, self._control, answers, *others):
                inherited.close()
            work(worker_end, self._vocab)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def work(channel: socket.socket, vocab: LlamaVocab) -> None:
    """Do jobs, until a long one: the process's end gives its memory back."""
    die_with_parent()
    raise_oom_score(_FIRST)
    while True:
        data, sockets, _, _ = socket.recv_fds(channel, 1, 1)
        if not data:
            return
        with socket.socket(fileno=sockets[0]) as answers:
            size = _do_job(answers, vocab)
        if size > _REUSABLE:
            return
        channel.send(b"d")


def _do_job(answers: socket.socket, vocab: LlamaVocab) -> int:
    """Do a job; its size in characters."""
    job = _read_job(answers)
    if job is None:
        return 0  # The job was cancelled before it began.
    size = total_characters(job.texts)
    if size > _REUSABLE:
        os.nice(_NICE)
    stack = stack_bytes(size)
    limit_growth(stack + MEMORY_BYTES + MEMORY_PER_CHARACTER * size, final=False)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds(size))
    # The main thread's stack has the size that it had at the start. A new thread's size can be chosen.
    threading.stack_size(stack)
    thread = threading.Thread(target=_tokenise, args=(answers, vocab, job))
    thread.start()
    thread.join()
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    return size


def _tokenise(answers: socket.socket, vocab: LlamaVocab, job: TokenizeJob) -> None:
    for text in job.texts:
        tokens = tokens_of(vocab, text)
        if not all(0 <= token < vocab.size for token in tokens):
            raise ValueError("the tokenizer has made tokens that the vocabulary doesn't have")
        try:
            answers.sendall(frame(TokenIds(array.array("i", tokens).tobytes())))
        except (BrokenPipeError, ConnectionResetError):
            return  # The job has been cancelled.


def _read_job(answers: socket.socket) -> TokenizeJob | None:
    frames: FrameDecoder[TokenizeJob] = FrameDecoder(TokenizeJob)
    while data := answers.recv(1 << 20):
        for job in frames.feed(data):
            return job
    return None


if __name__ == "__main__":
    main()
