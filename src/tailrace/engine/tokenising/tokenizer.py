"""Takes texts to tokenise: short ones are tokenised at once by the caller's thread, others in a process of their own.

A few threads run the long jobs. Callers take turns, within a caller the shortest job and the oldest one, and very long
jobs never occupy all threads. So a short text doesn't wait behind long ones, nor a long one for ever.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from itertools import count

import structlog

from tailrace.engine.backends.base import Backend
from tailrace.engine.caller_queue import CallerQueue
from tailrace.engine.tokenising.jobs import TokenizerInput, total_characters
from tailrace.engine.tokenising.tokenizer_sandbox import TextNotTokenizable, TokenizerProcess, TokenizerUnavailable
from tailrace.own_process.thread_name import name_thread
from tailrace.protocol import RefusalCode, Refused, RefusedField

#: Jobs in the process at the same time, and how many of them may be longer than ``_LONG`` characters.
_MAX_RUNNERS = 4
_MAX_LONG_RUNNERS = 2
_LONG = 65_536


class TokenizationFailed(Exception):
    """A request's texts can't be tokenised."""

    def __init__(self, message: str, code: RefusalCode, field: RefusedField) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.field: RefusedField = field

    def refusal(self, identity: int) -> Refused:
        """The answer to the request."""
        return Refused(identity, self.code, str(self), field=self.field)


#: The tokens of each text, or the reason why there are none.
TokenizeOutcome = list[list[int]] | TokenizationFailed
OnTokenized = Callable[[TokenizeOutcome], None]


class _Job:
    """Texts that wait for the process or are in it. Requests with the same texts share a job."""

    def __init__(self, number: int, texts: tuple[TokenizerInput, ...], caller: str) -> None:
        self.number = number
        self.caller = caller  #: the first request's
        self.texts = texts
        self.size = total_characters(texts)
        self.callbacks: dict[int, OnTokenized] = {}  #: by the request's id


class Tokenizer:
    """One for a backend. Any thread may use it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        path = backend.model_path
        self._process = None if path is None else TokenizerProcess(path, backend.metadata_overrides)
        self._numbers = count(1)
        self._lock = threading.Condition()
        self._jobs: dict[tuple[TokenizerInput, ...], _Job] = {}  #: all of them, oldest first
        self._waiting: CallerQueue[_Job] = CallerQueue(lambda job: job.size)  #: those that haven't begun
        self._long_jobs = 0  #: runners that have a long job
        self._runners: list[threading.Thread] = []
        self._closed = False

    def request(self, identity: int, texts: Sequence[TokenizerInput], done: OnTokenized, caller: str = "") -> None:
        """Call ``done`` with the texts' tokens or the reason why there are none. Short texts are tokenised at once,
        others later on another thread, when it is ``caller``'s turn.
        """
        if self._process is None or self._backend.can_tokenize_inline(texts):
            done([self._backend.tokenize_prompt(text) for text in texts])
            return
        failure: TokenizationFailed | None = None
        key = tuple(texts)
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job(next(self._numbers), key, caller)
                self._waiting.add(caller, job)
                self._lock.notify()
            job.callbacks[identity] = done
            if len(self._runners) < min(_MAX_RUNNERS, len(self._jobs)):
                failure = self._start_runner()
                if failure is not None:
                    del self._jobs[key]
                    self._waiting.remove(job.caller, job)
        if failure is not None:
            done(failure)

    def cancel(self, identity: int) -> None:
        """The request's texts aren't wanted any more. Its ``done`` may still be called if the call is imminent."""
        with self._lock:
            for job in self._jobs.values():
                if job.callbacks.pop(identity, None) is not None:
                    break
            else:
                return
            if job.callbacks:
                return
            del self._jobs[job.texts]
            if not self._waiting.remove(job.caller, job) and self._process is not None:
                self._process.kill(job.number)

    def tokens_of(self, texts: Sequence[TokenizerInput]) -> list[list[int]]:
        """The tokens of each text; waits for them. Raises TokenizationFailed. Any other exception cancels the job."""
        outcomes: queue.SimpleQueue[TokenizeOutcome] = queue.SimpleQueue()
        identity = -next(self._numbers)  # Requests have positive ones.
        try:
            self.request(identity, texts, outcomes.put)
            outcome = outcomes.get()
        finally:
            self.cancel(identity)
        if isinstance(outcome, TokenizationFailed):
            raise outcome
        return outcome

    def close(self) -> None:
        """End all jobs. No more callbacks are called."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
            self._waiting.clear()
            self._lock.notify_all()
        if self._process is not None:
            self._process.close()
        for runner in self._runners:
            runner.join()

    def _start_runner(self) -> TokenizationFailed | None:
        """Start one more runner. The reason where the system has no thread left and no runner can take the job."""
        runner = threading.Thread(target=self._run, name="tokenising", daemon=True)
        try:
            runner.start()
        except RuntimeError as error:
            structlog.get_logger().error("no thread for tokenising", runners=len(self._runners), error=str(error))
            if self._runners:
                return None
            return TokenizationFailed(f"no thread can be started for tokenising: {error}", "unavailable", "prompt")
        self._runners.append(runner)
        return None

    def _run(self) -> None:
        name_thread("tokenising")
        while (job := self._take()) is not None:
            outcome = self._outcome(job) if job.callbacks else []
            with self._lock:
                self._long_jobs -= job.size > _LONG
                if self._jobs.get(job.texts) is job:
                    del self._jobs[job.texts]
                callbacks = list(job.callbacks.values())
                self._lock.notify()
            for done in callbacks:
                try:
                    done(outcome if isinstance(outcome, TokenizationFailed) else [[*tokens] for tokens in outcome])
                except Exception:
                    # A defect of the caller's. Other requests' texts go on.
                    structlog.get_logger().exception("a text's tokens can't be delivered")

    def _take(self) -> _Job | None:
        """The next job; waits for one. None at the end."""
        with self._lock:
            while not self._closed:
                job = self._waiting.take(lambda job: job.size <= _LONG or self._long_jobs < _MAX_LONG_RUNNERS)
                if job is not None:
                    self._long_jobs += job.size > _LONG
                    return job
                self._lock.wait()
        return None

    def _outcome(self, job: _Job) -> TokenizeOutcome:
        assert self._process is not None
        try:
            return self._process.run(job.number, job.texts)
        except TextNotTokenizable as error:
            if job.callbacks:  # Else it was cancelled.
                structlog.get_logger().warning("a text can't be tokenised", field=error.field, characters=job.size)
            return TokenizationFailed(str(error), "invalid_prompt", error.field)
        except TokenizerUnavailable as error:
            return TokenizationFailed(str(error), "unavailable", "prompt")
        except Exception as error:
            structlog.get_logger().exception("tokenising a text has failed", characters=job.size)
            return TokenizationFailed(f"tokenising the text has failed: {error!r}", "unavailable", "prompt")
