"""The figures of one request, as its log line and its trace have them at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Status of a request whose client has gone before it had a response: nginx's number. It is never sent.
CLIENT_GONE = 499


@dataclass(slots=True)
class GenerationFigures:
    """A generation's. Times are of the monotonic clock, in seconds; None where that point wasn't reached."""

    started_at: float  #: when it was submitted
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    choices: int = 1
    first_token_at: float | None = None
    queue_seconds: float | None = None  #: of the first choice that started: until its admission to the batch
    prefill_seconds: float = 0.0  #: of the same: from then to its first token
    ended_at: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finishes: list[str] = field(default_factory=list)  #: each choice's end
    error: str | None = None  #: the code of the error that has ended it

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first one, of all choices, a second."""
        if self.first_token_at is None or self.ended_at is None or self.ended_at <= self.first_token_at:
            return None
        later = self.completion_tokens - len(self.finishes)
        return later / (self.ended_at - self.first_token_at) if later > 0 else None


@dataclass(slots=True, kw_only=True)
class RequestSummary:
    """A request's."""

    request_id: str
    method: str
    route: str  #: the template; "other" where there is no such route
    path: str  #: the client's own text
    client: str  #: its address
    began_at: float  #: monotonic seconds
    traceparent: str | None = None  #: W3C trace context, as it was sent
    tracestate: str | None = None
    status: int | None = None  #: None: no response was sent
    error: str | None = None  #: the code of the error that it ended with
    key: str | None = None  #: the name of its API key
    model: str | None = None  #: the served one, where there is a generation
    generation: GenerationFigures | None = None
    prompt: str | None = None  #: only where prompts are logged
    ended_at: float = 0.0
