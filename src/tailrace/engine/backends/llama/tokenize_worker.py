"""The program that tokenises for the engine: it loads a model's vocabulary, and forks a process for each job.

llama.cpp's tokenizers can overflow the stack, abort, or take quadratic time, all by what a prompt says. Here that ends
the one process which does that prompt, and nothing else. Such a process shares the vocabulary's memory with this one.
It takes 6 ms to make, so one that has done a job of usual size waits for the next.

Started as ``python -m tailrace.engine.backends.llama.tokenize_worker MODEL`` with a socket as its standard input. On it
come records of ``RECORD``. ``TOKENISE`` brings the job's own socket with it: the job's process reads a ``TokenizeJob``
from it and answers with one ``TokenIds`` for each text. A job whose process ends early has fewer answers.
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
from pathlib import Path
from typing import NamedTuple

from tailrace.child import die_with_parent
from tailrace.engine.backends.llama.llama_vocab import LlamaVocab, load_vocab
from tailrace.engine.backends.llama.model_loader import redirect_log
from tailrace.engine.tokenising.control_records import KILL, RECORD, TOKENISE
from tailrace.engine.tokenising.jobs import TokenIds, TokenizeJob, total_characters
from tailrace.engine.tokenising.vocab import tokens_of
from tailrace.engine.tokenising.worker_limits import MEMORY_BYTES, MEMORY_PER_CHARACTER, cpu_seconds, stack_bytes
from tailrace.ipc import FrameDecoder, frame

#: Characters of a job after which its process may do another.
_KEPT = 65_536
#: How much less of a busy CPU a longer job gets than the threads that compute replies: a quarter of an equal share.
_NICE = 6


def main() -> None:
    """Serve until the engine closes the socket."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The engine decides when this ends, on a terminal, too.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    redirect_log(None)
    vocab = load_vocab(Path(sys.argv[1]))
    # What the first text makes is made now, and shared by all.
    vocab.warm_up()
    vocab.specials.split("a")
    gc.collect()
    gc.freeze()  # What the collector doesn't touch, the jobs' processes share.
    Server(control, vocab).run()


class Worker(NamedTuple):
    """A process that does one job at a time."""

    process: int
    channel: socket.socket  #: jobs' sockets go to it, and a byte comes back for each job that is done


class Server:
    """The process that makes the workers. It has one thread, so that it may fork."""

    def __init__(self, control: socket.socket, vocab: LlamaVocab) -> None:
        self._control = control
        self._vocab = vocab
        self._busy: dict[int, Worker] = {}  #: by job
        self._idle: list[Worker] = []

    def run(self) -> None:
        """Return when the engine has gone; what still runs is killed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    worker: Worker | None = key.data
                    if worker is not None:
                        if not self._hear(worker):
                            selector.unregister(worker.channel)
                            worker.channel.close()
                    elif not self._take(selector):
                        for each in (*self._busy.values(), *self._idle):
                            os.kill(each.process, signal.SIGKILL)
                        return

    def _take(self, selector: selectors.BaseSelector) -> bool:
        """One record from the engine; False when there are no more."""
        data, sockets, _, _ = socket.recv_fds(self._control, RECORD.size, 1)
        if len(data) < RECORD.size:
            return False
        kind, job = RECORD.unpack(data)
        if kind == TOKENISE:
            with socket.socket(fileno=sockets[0]) as answers:
                worker = self._idle.pop() if self._idle else self._fork(selector, answers)
                self._busy[job] = worker
                with contextlib.suppress(BrokenPipeError):  # It has just died: the job ends without an answer.
                    socket.send_fds(worker.channel, [b"j"], [answers.fileno()])
        elif kind == KILL and job in self._busy:
            # It hasn't been waited for, so the number can't be another process's.
            os.kill(self._busy[job].process, signal.SIGKILL)
        return True

    def _hear(self, worker: Worker) -> bool:
        """The worker is done with its job, or has died: then False."""
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
        ours, theirs = socket.socketpair()
        process = os.fork()
        if process:
            theirs.close()
            worker = Worker(process, ours)
            selector.register(ours, selectors.EVENT_READ, worker)
            return worker
        try:
            # Who holds a copy of a socket keeps it open: its other end would wait.
            others = (each.channel for each in (*self._busy.values(), *self._idle))
            for inherited in (ours, self._control, answers, *others):
                inherited.close()
            work(theirs, self._vocab)
        finally:
            os._exit(1)


def work(channel: socket.socket, vocab: LlamaVocab) -> None:
    """A worker's life: jobs, until one was so long that the memory is better given back."""
    die_with_parent()
    _die_first()
    while True:
        data, sockets, _, _ = socket.recv_fds(channel, 1, 1)
        if not data:
            return
        with socket.socket(fileno=sockets[0]) as answers:
            size = _work(answers, vocab)
        if size > _KEPT:
            return
        channel.send(b"d")


def _work(answers: socket.socket, vocab: LlamaVocab) -> int:
    """Do a job; how many characters it had."""
    job = _read(answers)
    if job is None:
        return 0  # Cancelled before it began.
    size = total_characters(job.texts)
    if size > _KEPT:
        os.nice(_NICE)
    stack = stack_bytes(size)
    _limit_memory(stack + MEMORY_BYTES + MEMORY_PER_CHARACTER * size)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds(size))
    # The first thread's stack was laid out when the program started; another's is as large as it is told to be.
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
            return  # Nobody waits for it any more.


def _read(answers: socket.socket) -> TokenizeJob | None:
    frames: FrameDecoder[TokenizeJob] = FrameDecoder(TokenizeJob)
    while data := answers.recv(1 << 20):
        for job in frames.feed(data):
            return job
    return None


def _die_first() -> None:
    """Where memory runs out, the kernel is to choose this process and not the engine."""
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _limit_memory(more: int) -> None:
    if sys.platform != "linux":
        return  # Other kernels don't hold processes to this limit.
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
