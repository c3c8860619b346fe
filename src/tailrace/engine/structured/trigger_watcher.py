"""Follows an unconstrained reply token by token, and finds the triggers that start a call's grammar.

A reply is in a mode (its start, a thought, text, ...), and each mode has triggers. A trigger's text may come as one
token or as several, and a token may reach beyond it. States are created when they are first reached, and shared by all
replies of the same grammar. After that a token costs one look-up in a dictionary.

The watcher also computes a mask of the tokens that end a trigger and go on with text that no call allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tailrace.engine.structured.constraint import Mask
from tailrace.engine.structured.token_index import TokenIndex
from tailrace.generation_params import LazyTriggers, Trigger

_SPACE = b" \t\r\n"
#: Triggers of a mode whose states get their masks beforehand; a state takes up to a millisecond.
_MAX_PREPARED = 8


class TriggerHit(NamedTuple):
    """A call's trigger has ended: its number, and the token's bytes beyond it."""

    trigger: int
    rest: bytes


class WatcherState:
    """A point in an unconstrained reply."""

    __slots__ = ("key", "mask", "mask_known", "next")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.next: dict[int, WatcherState | TriggerHit] = {}
        #: The tokens that may come next; None: all. Valid once ``mask_known``.
        self.mask: Mask | None = None
        self.mask_known = False


class _StartMatch(NamedTuple):
    """A trigger that counts at the mode's start alone, as far as the text since then matches it."""

    trigger: int
    piece: int  #: the piece of the trigger that is being matched
    offset: int  #: bytes of that piece so far


class _Key(NamedTuple):
    mode: int
    start_matches: tuple[_StartMatch, ...]  #: empty once the mode's start is over
    tail: bytes  #: the text's end, if it may be the beginning of a trigger that counts anywhere


class TriggerWatcher:
    """One for a compiled grammar, shared by its replies. One thread at a time may use it."""

    def __init__(self, triggers: LazyTriggers, tokens: TokenIndex, call_allows: Callable[[int, bytes], bool]) -> None:
        """``call_allows``: whether the grammar of the call that a trigger (by number) starts can go on with bytes."""
        self._tokens = tokens
        self._visible = {token: text.encode() for token, text in triggers.visible_tokens}
        self._call_allows = call_allows
        self.triggers: list[Trigger] = [trigger for mode in triggers.modes for trigger in mode]
        self._at_start: list[list[tuple[int, tuple[bytes, ...]]]] = []  #: by mode: number and pieces
        self._anywhere: list[list[tuple[int, bytes]]] = []  #: by mode: number and text
        number = 0
        for mode in triggers.modes:
            self._at_start.append([])
            self._anywhere.append([])
            for trigger in mode:
                if trigger.start_pieces:
                    self._at_start[-1].append((number, tuple(piece.encode() for piece in trigger.start_pieces)))
                else:
                    self._anywhere[-1].append((number, trigger.text.encode()))
                number += 1
        self._pieces_of = {number: pieces for mode in self._at_start for number, pieces in mode}
        self._states: dict[_Key, WatcherState] = {}
        #: Tokens that contain a whole trigger, beyond which they may reach.
        self._containing_trigger = {
            token
            for text in dict.fromkeys(
                trigger.text for trigger in self.triggers if trigger.grammar_prefix and not trigger.start_pieces
            )
            for token in (tokens.containing(text.encode()) if len(text) <= tokens.max_token_bytes else ())
        }
        self.first = self.start(triggers.first_mode)

    def start(self, mode: int) -> WatcherState:
        """The state at the start of ``mode``."""
        return self._state(self._start_key(mode))

    def step(self, state: WatcherState, token: int) -> WatcherState | TriggerHit:
        """The state after ``token``, or the call's trigger that it ends."""
        found = state.next.get(token)
        if found is None:
            found = state.next[token] = self._step(state, token)
        return found

    def follow(self, state: WatcherState, text: bytes) -> WatcherState | TriggerHit:
        """The state after a text of several tokens, or the first call's trigger that ends in it."""
        reached = self._through(state.key, text)
        return reached if isinstance(reached, TriggerHit) else self._state(reached)

    def mask(self, state: WatcherState) -> Mask | None:
        """The tokens that may come next; None: all of them."""
        if not state.mask_known:
            state.mask = self._compute_mask(state)
            state.mask_known = True
        return state.mask

    def prepare(self) -> None:
        """Compute the masks of the states on the way into calls, so that no reply waits for them."""
        for mode in range(len(self._at_start)):
            self.mask(self.start(mode))
            for text in self._call_triggers(mode)[:_MAX_PREPARED]:
                state = self.start(mode)
                for place in range(len(text) - 1):
                    key = self._through(state.key, text[place : place + 1])
                    if isinstance(key, TriggerHit):
                        break
                    state = self._state(key)
                    self.mask(state)

    def _call_triggers(self, mode: int) -> list[bytes]:
        """The texts of the mode's triggers that start calls."""
        numbers = [number for number, _ in (*self._anywhere[mode], *self._at_start[mode])]
        return [self.triggers[number].text.encode() for number in numbers if self.triggers[number].grammar_prefix]

    def _start_key(self, mode: int) -> _Key:
        return _Key(mode, tuple(_StartMatch(number, 0, 0) for number, _ in self._at_start[mode]), b"")

    def _state(self, key: _Key) -> WatcherState:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = WatcherState(key)
        return state

    def _step(self, state: WatcherState, token: int) -> WatcherState | TriggerHit:
        reached = self._through(state.key, self._visible.get(token) or self._tokens.pieces[token])
        return reached if isinstance(reached, TriggerHit) else self._state(reached)

    def _through(self, key: _Key, text: bytes) -> _Key | TriggerHit:
        """Follow ``text`` byte by byte."""
        for place in range(len(text)):
            found = self._byte(key, text[place])
            if isinstance(found, _Key):
                key = found
                continue
            trigger = self.triggers[found]
            if trigger.grammar_prefix:
                return TriggerHit(found, text[place + 1 :])
            key = self._start_key(trigger.next_mode)
        return key

    def _byte(self, key: _Key, byte: int) -> _Key | int:
        """The key after one more byte, or the number of the trigger that it ends."""
        matches: list[_StartMatch] = []
        for match in key.start_matches:
            pieces = self._pieces_of[match.trigger]
            if not match.offset and byte in _SPACE:
                matches.append(match)
            elif pieces[match.piece][match.offset] == byte:
                offset = match.offset + 1
                if offset < len(pieces[match.piece]):
                    matches.append(_StartMatch(match.trigger, match.piece, offset))
                elif match.piece + 1 < len(pieces):
                    matches.append(_StartMatch(match.trigger, match.piece + 1, 0))
                else:
                    return match.trigger
        tail = key.tail + bytes((byte,))
        anywhere = self._anywhere[key.mode]
        while tail:
            for number, text in anywhere:
                if text == tail:
                    return number
            if any(text.startswith(tail) for _, text in anywhere):
                break
            tail = tail[1:]
        return _Key(key.mode, tuple(matches), tail)

    def _compute_mask(self, state: WatcherState) -> Mask | None:
        """All tokens but those that end a trigger and go on with bytes that the call's grammar doesn't allow."""
        wrong = [
            token
            for token in self._candidates(state.key)
            if isinstance(reached := self.step(state, token), TriggerHit)
            and reached.rest
            and not self._call_allows(reached.trigger, reached.rest)
        ]
        if not wrong:
            return None
        mask = np.full((len(self._tokens.pieces) + 31) // 32, 0xFFFFFFFF, np.uint32)
        for token in wrong:
            mask[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
        return mask

    def _candidates(self, key: _Key) -> set[int]:
        """Tokens that may end a call's trigger here. White space may stand between pieces: the index leaves it out."""
        remaining: set[bytes] = set()
        for match in key.start_matches:
            pieces = self._pieces_of[match.trigger]
            remaining.add(pieces[match.piece][match.offset :] + b"".join(pieces[match.piece + 1 :]))
        for number, text in self._anywhere[key.mode]:
            if self.triggers[number].grammar_prefix:
                remaining |= {text[size:] for size in range(1, len(text)) if key.tail.endswith(text[:size])}
        found = set(self._containing_trigger)
        for rest in remaining:
            found.update(self._tokens.starting_with(rest))
        return found
