"""Who tokenises what, and when: short texts at once where they are asked for, others in the sandbox, side by side.

Long texts have a few runners. As with prompts that are computed, the oldest and the shortest take turns, and very long
ones never have all the runners: so a short one doesn't wait behind long ones, nor a long one for ever.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from itertools import count

import structlog

from tailrace.engine.backends.base import Backend
from tailrace.engine.tokenising.jobs import TokenizerInput, total_characters
from tailrace.engine.tokenising.tokenizer_process import TextNotTokenizable, TokenizerProcess, TokenizerUnavailable
from tailrace.protocol import RefusalCode, Refused, RefusedField

#: Jobs in the sandbox at the same time, and how many of them may have more characters than this.
_RUNNERS = 4
_LONG_RUNNERS = 2
_LONG = 65_536


class TokenizationFailed(Exception):
    """A request's texts can't be tokenised."""

    def __init__(self, message: str, code: RefusalCode, field: RefusedField) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.field: RefusedField = field

    def refusal(self, identity: int) -> Refused:
        """What the request is answered."""
        return Refused(identity, self.code, str(self), field=self.field)


#: The tokens of each text, or why there are none.
TokenizeOutcome = list[list[int]] | TokenizationFailed
OnTokenized = Callable[[TokenizeOutcome], None]


class _Job:
    """Texts that wait for the sandbox or are in it; requests with the same texts share one."""

    def __init__(self, number: int, texts: tuple[TokenizerInput, ...]) -> None:
        self.number = number
        self.texts = texts
        self.size = total_characters(texts)
        self.takers: dict[int, OnTokenized] = {}  #: by the request's id


class Tokenizer:
    """One for a backend. Any thread may use it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sandbox = TokenizerProcess(backend.model_path) if backend.model_path is not None else None
        self._numbers = count(1)
        self._lock = threading.Condition()
        self._jobs: dict[tuple[TokenizerInput, ...], _Job] = {}  #: all of them, oldest first
        self._waiting: list[_Job] = []  #: those that haven't begun
        self._long = 0  #: runners that have a long job
        self._shortest_next = False
        self._runners: list[threading.Thread] = []
        self._closed = False

    def request(self, identity: int, texts: Sequence[TokenizerInput], done: OnTokenized) -> None:
        """Call ``done`` with what becomes of the texts: at once where they are short, else later on another thread."""
        if self._sandbox is None or self._backend.can_tokenize_inline(texts):
            done([self._backend.tokenize_prompt(text) for text in texts])
            return
        key = tuple(texts)
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job(next(self._numbers), key)
                self._waiting.append(job)
                self._lock.notify()
            job.takers[identity] = done
            if len(self._runners) < min(_RUNNERS, len(self._jobs)):
                runner = threading.Thread(target=self._run, name="tokenising", daemon=True)
                self._runners.append(runner)
                runner.start()

    def cancel(self, identity: int) -> None:
        """Nobody waits for the request's texts any more. Its ``done`` may still be called if it is about to be."""
        with self._lock:
            for job in self._jobs.values():
                if job.takers.pop(identity, None) is not None:
                    break
            else:
                return
            if job.takers:
                return
            del self._jobs[job.texts]
            if job in self._waiting:
                self._waiting.remove(job)
            elif self._sandbox is not None:
                self._sandbox.kill(job.number)

    def tokens_of(self, texts: Sequence[TokenizerInput]) -> list[list[int]]:
        """The tokens of each text, waited for. Raises TokenizationFailed. Whatever else it raises cancels."""
        results: queue.SimpleQueue[TokenizeOutcome] = queue.SimpleQueue()
        identity = -next(self._numbers)  # Requests have positive ones.
        try:
            self.request(identity, texts, results.put)
            result = results.get()
        finally:
            self.cancel(identity)
        if isinstance(result, TokenizationFailed):
            raise result
        return result

    def close(self) -> None:
        """End what runs; nothing more is told."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
            self._waiting.clear()
            self._lock.notify_all()
        if self._sandbox is not None:
            self._sandbox.close()
        for runner in self._runners:
            runner.join()

    def _run(self) -> None:
        while (job := self._take()) is not None:
            result = self._tokenise(job) if job.takers else []
            with self._lock:
                self._long -= job.size > _LONG
                if self._jobs.get(job.texts) is job:
                    del self._jobs[job.texts]
                takers = list(job.takers.values())
                self._lock.notify()
            for done in takers:
                done(result if isinstance(result, TokenizationFailed) else [[*tokens] for tokens in result])

    def _take(self) -> _Job | None:
        """The next job, waited for; None at the end."""
        with self._lock:
            while not self._closed:
                able = [job for job in self._waiting if job.size <= _LONG or self._long < _LONG_RUNNERS]
                if able:
                    job = min(able, key=lambda job: job.size) if self._shortest_next else able[0]
                    self._shortest_next = not self._shortest_next
                    self._waiting.remove(job)
                    self._long += job.size > _LONG
                    return job
                self._lock.wait()
        return None

    def _tokenise(self, job: _Job) -> TokenizeOutcome:
        assert self._sandbox is not None
        try:
            return self._sandbox.run(job.number, job.texts)
        except TextNotTokenizable as error:
            if job.takers:  # Else it was cancelled.
                structlog.get_logger().warning("a text can't be tokenised", field=error.field, characters=job.size)
            return TokenizationFailed(str(error), "invalid_prompt", error.field)
        except TokenizerUnavailable as error:
            return TokenizationFailed(str(error), "unavailable", "prompt")
