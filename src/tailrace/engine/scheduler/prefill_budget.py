"""How many prompt tokens a step may read so that running streams keep their pace: learned from the steps themselves."""

from __future__ import annotations

#: Prompt tokens that any step may read: prompts go on, whatever they cost. Deep in a prompt a step's time goes into
#: reading its cells, once for all of its tokens; and the longer a prompt takes, the longer the replies themselves have
#: become meanwhile. In how few tokens its end is read matters less than how many its beginning is read in: see below.
MIN_TOKENS = 5
#: Prompt tokens of a step while nothing is known.
_FIRST = 16
#: A step that reads prompts may last so many times what it would without. Streams beside a long prompt are to keep
#: their gaps under 3 times the usual; that is more than they can deep in a prompt, and what its beginning takes less
#: of that, its end takes more. At 2.6, with eight tokens at least, a prompt of 4,000 tokens beside four streams of the
#: starter model took 7.3 and 7.7 s, at a p99 of 27.9 and 26.4 ms and a longest gap of 54 and 48; so 6.6 and 7.2 s,
#: 26.5 and 25.0 ms, 43 and 44 (``benchmarks.flood``, 3 turns each, in turns; 2 cores of a Sapphire Rapids; without the
#: prompt 5.6 ms). Smaller pieces don't help: in a quieter hour p99 was 21.8 ms so, and 22.4, 21.8 and 23.6 with four
#: tokens at least and 2.6, three and 2.6, three and 2.3, but the prompt took 9.6, 13.7 and 16.1 s instead of 7.3.
_STRETCH = 3.0
#: What a step may last that brings a prompt to its end: a short one is read at once, which is one longer gap for the
#: others and not many. Paced like long ones, eight short prompts that come together took a second instead of a third.
_FINISH_SECONDS = 0.1
#: Weight of the newest observation, and how far above what is known it is believed: the step after a change of layout
#: touches new memory and may take ten times as long, and while a prompt is read no step shows decode alone. Believed
#: whole, one such step let a prompt hold up the others for 50 to 100 ms a step instead of 15, until its end.
_WEIGHT = 0.3
_BELIEVED = 1.3


class PrefillBudget:
    """The chunk for a step beside running streams.

    A step with n streams and c prompt tokens is taken to last ``decode(n) + c * token``; both are learned. The chunk is
    what fits into ``step_seconds``, or where that is None into ``decode(n)`` stretched by a fixed factor.
    """

    def __init__(self, most: int, step_seconds: float | None) -> None:
        """``most``: prompt tokens of a step at most."""
        self._most = most
        self._step_seconds = step_seconds
        self._token: float | None = None  #: seconds that a prompt token takes
        self._beside = False  #: whether that is of tokens beside running streams
        self._decode: dict[int, float] = {}  #: seconds that a step takes which decodes so many tokens and no prompt

    def observe(self, decoded: int, prompt_tokens: int, seconds: float) -> None:
        """A step decoded so many sequences and read so many prompt tokens in ``seconds``."""
        if not prompt_tokens:
            self._decode[decoded] = _blend(self._decode.get(decoded), seconds)
        elif decoded and not self._decode:
            # Prompts have been read since the first reply began, so no step has shown decode alone: what the prompt
            # doesn't account for is decode's.
            token = self._token if self._token is not None else seconds / (decoded + prompt_tokens)
            self._decode[decoded] = max(seconds - prompt_tokens * token, 0.1 * seconds)
        elif prompt_tokens >= MIN_TOKENS and (decoded or not self._beside):
            token = (seconds - self._decode_seconds(decoded)) / prompt_tokens
            # A step that was shorter than without its prompt: what is known of decode is out of date.
            token = max(token, 0.1 * seconds / prompt_tokens)
            # Many tokens at once are cheap, so those that are read alone say little of a few beside others: they are
            # a first guess. Believed, they made a prompt's first steps beside others last 45 ms instead of 13.
            known = self._token if self._beside or not decoded else None
            self._token = _blend(known, token)
            self._beside = bool(decoded)

    def mixed(self, decoding: int) -> int:
        """Prompt tokens for a step in which so many sequences decode."""
        return self._within(self._step_seconds or _STRETCH * self._decode_seconds(decoding), decoding)

    def last_chunk(self, decoding: int) -> int:
        """Prompt tokens for such a step if they bring a prompt to its end."""
        return self._within(self._step_seconds or _FINISH_SECONDS, decoding)

    def _within(self, seconds: float, decoding: int) -> int:
        """Prompt tokens that fit into a step of ``seconds``."""
        if self._token is None:
            return min(self._most, _FIRST)
        tokens = int((seconds - self._decode_seconds(decoding)) / self._token)
        return max(min(MIN_TOKENS, self._most), min(self._most, tokens))

    def _decode_seconds(self, decoding: int) -> float:
        """What a step of so many sequences takes, or of the nearest number that has been seen."""
        if not decoding or not self._decode:
            return 0.0
        return self._decode[min(self._decode, key=lambda seen: abs(seen - decoding))]


def _blend(known: float | None, seen: float) -> float:
    return seen if known is None else known + _WEIGHT * (min(seen, _BELIEVED * known) - known)
