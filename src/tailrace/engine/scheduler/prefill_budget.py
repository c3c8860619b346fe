"""How many prompt tokens a step may compute beside decoding sequences. Learned from how long steps take.

Measurements: ``benchmarks/README.md``, flood.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

#: Prompt tokens that any step may compute: prompts go on, however long they take. Deep in a prompt a step's time goes
#: into its attention over the cells, once for all of its tokens, so fewer tokens save little.
MIN_TOKENS = 3
#: Prompt tokens of a step before any was measured.
_FIRST_TOKENS = 16
#: One gap of a hundred may be longer than this many times a step without prompts.
_BOUND = 3.0
#: A gap with prompts is to take this many times as long as a step without, at most, at least, and where it isn't known
#: by how much gaps exceed what was expected of them. Deep in a prompt a step reads all of its cells for a few tokens,
#: so a smaller part makes the prompt much slower.
_MAX_SLOWDOWN = 2.8
_MIN_SLOWDOWN = 2.0
_FIRST_SLOWDOWN = 2.4
#: Where one gap of a hundred exceeds that by more, other programs make it so long: no smaller part keeps the bound.
_MAX_EXCESS = 1.5
#: How many times longer a prompt token takes in a small chunk beside replies than in a large one without, until it has
#: been measured there.
_SMALL_CHUNK_COST = 1.5
#: How long a step may take that brings a prompt to its end beside replies that have just begun. Without it eight short
#: prompts at once took three times as long. Its estimate is rough, and no gap should be longer than 100 ms.
_LAST_CHUNK_SECONDS = 0.08
#: After so many steps with prompts one has none, which shows what it takes now: replies become longer, and other
#: programs come and go. With 64, the known time was a third too short at the end of a long prompt.
_STEPS_TO_PROBE = 16
#: The same where the last one took less than this part of what was known: a disturbance is over. Its weight is larger.
_STEPS_TO_NEXT_PROBE = 8
_SHORTER_PART = 0.8
_SHORTER_WEIGHT = 0.5
#: States move after a step for this part of a step without prompts; for the second one while a sequence waits for the
#: place of a state that moves.
_MOVE_PART = 0.25
_AWAITED_MOVE_PART = 0.75
#: What a step leaves for moves while there are any: the last piece goes beyond their time.
_KEPT_FOR_MOVES = 0.5
#: Prompt tokens of a step without decoding sequences from which a token's least time is learned.
_MANY_TOKENS = 64
#: The part of a step's time beyond its prompt's least time from which the rest is an estimate of a step without.
_MIN_REST = 0.7
#: Weight of the newest measurement, and how far above the known value it may be. One step that touches new memory may
#: take ten times as long: unbounded, it would slow all others down until the prompt's end.
_WEIGHT = 0.3
_MAX_RISE = 1.3
#: The same of a longer step without prompts. So the budget follows the quiet steps: what disturbs the steps before a
#: prompt must not lengthen all steps of the prompt.
_RISE_WEIGHT = 0.1


#: The gaps whose excess is remembered: the second largest one leaves one gap of 128 above it. Fewer than the second
#: number say little.
_REMEMBERED_GAPS = 256
_RANK = 2
_FEW_GAPS = 32


class PrefillBudget:
    """The prompt tokens of a step beside decoding sequences.

    A step with n decoding sequences and c prompt tokens takes about ``decode(n) + c * token`` seconds; both are
    learned. The budget is what fits into ``step_seconds``, or where that is None into ``decode(n)`` times a slowdown
    factor: the bound of the gaps' 99th percentile, less what the last gaps have taken beyond what was expected of them.
    """

    def __init__(self, max_tokens: int, step_seconds: float | None) -> None:
        """``max_tokens``: prompt tokens of a step, at most."""
        self._max_tokens = max_tokens
        self._step_seconds = step_seconds
        self._token_seconds: float | None = None  #: seconds per prompt token
        self._token_mixed = False  #: whether that was measured beside decoding sequences
        self._alone_seconds: float | None = None  #: seconds per prompt token where no sequence decodes: the least
        self._decode: dict[int, float] = {}  #: seconds of a step without prompts, by its number of decoding sequences
        self._estimated: set[int] = set()  #: those of ``_decode`` that no step without prompts has shown
        self._slowdown = _FIRST_SLOWDOWN
        #: What the last gaps with prompts took beyond what was expected, ÷ a step without; by age, and sorted.
        self._excesses: deque[float] = deque()
        self._sorted_excesses: list[float] = []
        #: What was expected of the last step that was planned: seconds without its prompt, seconds per prompt token.
        self._expected = (0.0, 0.0)
        self._steps_to_probe = _STEPS_TO_PROBE  #: steps with prompts until one is left without
        self._allowed = 0  #: prompt tokens that ``mixed`` gave the last step

    @property
    def prefill_speed(self) -> float:
        """Prompt tokens a second, where no sequence decodes if that was measured; 0: nothing was."""
        seconds = self._alone_seconds or self._token_seconds
        return 1 / seconds if seconds else 0.0

    @property
    def decode_speed(self) -> float:
        """Reply tokens a second of all sequences together, at the number of sequences where it was highest; 0: nothing
        was measured.
        """
        return max((number / seconds for number, seconds in self._decode.items() if seconds), default=0.0)

    def observe(self, n_decoding: int, prompt_tokens: int, seconds: float) -> None:
        """A step of ``n_decoding`` sequences and ``prompt_tokens`` took ``seconds``."""
        if not n_decoding and prompt_tokens >= _MANY_TOKENS:
            self._alone_seconds = _blend(self._alone_seconds, seconds / prompt_tokens)
        if not prompt_tokens:
            known = None if n_decoding in self._estimated else self._decode.get(n_decoding)
            self._estimated.discard(n_decoding)
            is_over = known is not None and seconds < _SHORTER_PART * known
            fall = _SHORTER_WEIGHT if is_over else _WEIGHT
            self._decode[n_decoding] = _blend(known, seconds, fall=fall, rise=_RISE_WEIGHT)
            self._steps_to_probe = _STEPS_TO_NEXT_PROBE if is_over else _STEPS_TO_PROBE
        elif n_decoding and not self._decode:
            # Every step since the first reply began has had prompt tokens, so none has shown the time of decode alone.
            # It is estimated as the rest beyond the prompt's time.
            token = self._token_seconds
            if token is None:
                token = seconds / (n_decoding + prompt_tokens)
            self._decode[n_decoding] = max(seconds - prompt_tokens * token, 0.1 * seconds)
            self._estimated.add(n_decoding)
        elif prompt_tokens >= MIN_TOKENS and (n_decoding or not self._token_mixed):
            self._estimate_decode(n_decoding, prompt_tokens, seconds)
            token = (seconds - self.quiet_seconds(n_decoding)) / prompt_tokens
            # Where the step was shorter than one without its prompt, the known decode time is out of date.
            token = max(token, 0.1 * seconds / prompt_tokens)
            # A token of a large prefill is cheaper than one of a few beside decoding sequences, so its time is only a
            # first guess for those.
            known = self._token_seconds if self._token_mixed or not n_decoding else None
            self._token_seconds = _blend(known, token)
            self._token_mixed = bool(n_decoding)

    def observe_gap(self, n_decoding: int, prompt_tokens: int, seconds: float) -> None:
        """A step with prompts and the moves after it took ``seconds``, which replies waited for."""
        if not n_decoding or not 0 < prompt_tokens <= self._allowed:
            return
        self._steps_to_probe -= 1
        quiet = self.quiet_seconds(n_decoding)
        base, token = self._expected
        if quiet:
            self._note_excess((seconds - base - prompt_tokens * token) / quiet)

    def _note_excess(self, excess: float) -> None:
        """A gap took so many steps without prompts more than was expected: adapt the slowdown factor."""
        recent, ordered = self._excesses, self._sorted_excesses
        recent.append(excess)
        insort(ordered, excess)
        if len(recent) > _REMEMBERED_GAPS:
            del ordered[bisect_left(ordered, recent.popleft())]
        if len(ordered) >= _FEW_GAPS:
            usual = ordered[-max(1, _RANK * len(ordered) // _REMEMBERED_GAPS)]
            kept = min(_MAX_SLOWDOWN, max(_MIN_SLOWDOWN, _BOUND - usual))
            self._slowdown = kept if usual <= _MAX_EXCESS else _FIRST_SLOWDOWN

    def _estimate_decode(self, n_decoding: int, prompt_tokens: int, seconds: float) -> None:
        """Where no step has shown the time of so many sequences without prompts, estimate it: what a step with few
        prompt tokens took beyond their least time. Without that a budget that is too small would never grow.
        """
        is_shown = n_decoding in self._decode and n_decoding not in self._estimated
        if not n_decoding or is_shown or self._alone_seconds is None:
            return
        rest = max(seconds - prompt_tokens * self._alone_seconds, 0.1 * seconds)
        known = self._decode.get(n_decoding)
        if known is not None and rest < known:
            # It is an upper bound, however many tokens there were.
            self._decode[n_decoding] = rest
        elif rest > _MIN_REST * seconds:
            self._estimated.add(n_decoding)
            self._decode[n_decoding] = _blend(known, rest)

    def mixed(self, n_decoding: int, *, moving: bool = False) -> int:
        """Prompt tokens for a step in which so many sequences decode. ``moving``: states move after it. 0 where the
        step is to show what it takes without.
        """
        if self._step_seconds is None and self._steps_to_probe <= 0:
            self._steps_to_probe = _STEPS_TO_PROBE
            return 0
        quiet = self.quiet_seconds(n_decoding)
        kept = _KEPT_FOR_MOVES * quiet if moving else 0.0
        seconds = self._step_seconds or self._slowdown * quiet
        self._expected = quiet + kept, self._mixed_token_seconds()
        self._allowed = self._tokens_in(seconds - kept, n_decoding)
        return self._allowed

    def move_seconds(self, n_decoding: int, step_seconds: float, *, awaited: bool = False) -> float:
        """For how long states may move after a step of so many sequences, which took ``step_seconds``. A step with a
        prompt has no more time for it than one without. ``awaited``: a sequence can't start before.
        """
        return (_AWAITED_MOVE_PART if awaited else _MOVE_PART) * min(
            step_seconds, self.quiet_seconds(n_decoding) or step_seconds
        )

    def last_chunk(self, n_decoding: int) -> int:
        """Prompt tokens for such a step if they bring a prompt to its end beside replies that have just begun."""
        return self._tokens_in(self._step_seconds or _LAST_CHUNK_SECONDS, n_decoding)

    def first_prompt(self) -> int:
        """Prompt tokens of a step without replies that computes a caller's whole first prompt: replies wait for it as
        they do for a prompt's last chunk.
        """
        if self._alone_seconds is None:
            return self.last_chunk(0)
        seconds = self._step_seconds or _LAST_CHUNK_SECONDS
        return min(self._max_tokens, int(seconds / self._alone_seconds))

    def _tokens_in(self, seconds: float, n_decoding: int) -> int:
        """Prompt tokens that fit into a step of ``seconds``."""
        if self._token_seconds is None:
            return min(self._max_tokens, _FIRST_TOKENS)
        token = self._mixed_token_seconds() if n_decoding else self._token_seconds
        tokens = int((seconds - self.quiet_seconds(n_decoding)) / token)
        return max(min(MIN_TOKENS, self._max_tokens), min(self._max_tokens, tokens))

    def _mixed_token_seconds(self) -> float:
        """Expected seconds per prompt token beside decoding sequences; 0: nothing was measured."""
        return (self._token_seconds or 0.0) * (1.0 if self._token_mixed else _SMALL_CHUNK_COST)

    def quiet_seconds(self, n_decoding: int) -> float:
        """Seconds of a step of so many sequences, or of the nearest number that was measured."""
        if not n_decoding or not self._decode:
            return 0.0
        return self._decode[min(self._decode, key=lambda measured: abs(measured - n_decoding))]


def _blend(known: float | None, measured: float, *, fall: float = _WEIGHT, rise: float = _WEIGHT) -> float:
    if known is None:
        return measured
    return known + (rise if measured > known else fall) * (min(measured, _MAX_RISE * known) - known)
