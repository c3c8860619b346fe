"""Watches a free reply for the markers that begin calls, token by token, and says which tokens may not end a marker.

A reply is in a mode (its beginning, a thought, text, ...), and each mode has triggers. Markers may come as one token or
as several, and a token may reach beyond a marker. States are made when they are first reached and remembered for every
reply of the same grammar: a token then costs one look-up in a dictionary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tailrace.engine.structured.constraint import Mask
from tailrace.protocol import Trigger, Watch

_SPACE = b" \t\r\n"
_NO_SPACE = (None, _SPACE)
#: Triggers of a mode whose states are checked beforehand; a state takes up to a millisecond.
_PREPARED = 8
#: Texts for which the tokens that contain them are remembered.
_MAX_CACHED_TEXTS = 1024


class TriggerHit(NamedTuple):
    """A marker that begins a call has ended: the trigger's number, and what the token has beyond it."""

    trigger: int
    rest: bytes


class WatcherState:
    """A point in a watched reply."""

    __slots__ = ("checked", "forbidden", "key", "next")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.next: dict[int, WatcherState | TriggerHit] = {}
        #: The tokens that may come next as a mask; None: all. Known once ``checked``.
        self.forbidden: Mask | None = None
        self.checked = False


class _Live(NamedTuple):
    """An anchored trigger that the text since the mode's start may become: its piece, and the place in that."""

    trigger: int
    piece: int
    place: int


class _Key(NamedTuple):
    mode: int
    live: tuple[_Live, ...]  #: empty once the mode's start is over
    tail: bytes  #: what may be the beginning of a trigger that counts anywhere


class TriggerWatcher:
    """One for a compiled grammar, shared by its replies, which one thread reads."""

    def __init__(self, watch: Watch, tokens: TokenIndex, accepts: Callable[[int, bytes], bool]) -> None:
        """``accepts``: whether the grammar of a call that the trigger of that number has
        begun can go on with these bytes.
        """
        self._tokens = tokens
        self._shown = {token: text.encode() for token, text in watch.shown}
        self._accepts = accepts
        self.triggers: list[Trigger] = [trigger for mode in watch.modes for trigger in mode]
        self._anchored: list[list[tuple[int, tuple[bytes, ...]]]] = []
        self._anywhere: list[list[tuple[int, bytes]]] = []
        number = 0
        for mode in watch.modes:
            self._anchored.append([])
            self._anywhere.append([])
            for trigger in mode:
                if trigger.pieces:
                    self._anchored[-1].append((number, tuple(piece.encode() for piece in trigger.pieces)))
                else:
                    self._anywhere[-1].append((number, trigger.text.encode()))
                number += 1
        self._pieces_of = {number: pieces for mode in self._anchored for number, pieces in mode}
        self._states: dict[_Key, WatcherState] = {}
        #: Tokens that contain all of a marker, beyond which they may reach.
        self._whole = {
            token
            for text in dict.fromkeys(trigger.text for trigger in self.triggers if trigger.opens and not trigger.pieces)
            for token in (tokens.containing(text.encode()) if len(text) <= tokens.longest else ())
        }
        self.first = self.start(watch.first)

    def start(self, mode: int) -> WatcherState:
        """The state at the beginning of ``mode``."""
        return self._state(self._start_key(mode))

    def step(self, state: WatcherState, token: int) -> WatcherState | TriggerHit:
        """Where ``token`` leads."""
        found = state.next.get(token)
        if found is None:
            found = state.next[token] = self._step(state, token)
        return found

    def read(self, state: WatcherState, text: bytes) -> WatcherState | TriggerHit:
        """Where a text of several tokens leads; a call in it ends the reading."""
        reached = self._through(state.key, text)
        return reached if isinstance(reached, TriggerHit) else self._state(reached)

    def mask(self, state: WatcherState) -> Mask | None:
        """The tokens that may come next; None: all of them."""
        if not state.checked:
            state.forbidden = self._forbidden(state)
            state.checked = True
        return state.forbidden

    def prepare(self) -> None:
        """Check the states that lie on the way into calls, so that no reply has to wait for it."""
        for mode in range(len(self._anchored)):
            self.mask(self.start(mode))
            for text in self._calls(mode)[:_PREPARED]:
                state = self.start(mode)
                for place in range(len(text) - 1):
                    key = self._through(state.key, text[place : place + 1])
                    if isinstance(key, TriggerHit):
                        break
                    state = self._state(key)
                    self.mask(state)

    def _calls(self, mode: int) -> list[bytes]:
        """The texts of the mode's triggers that begin calls."""
        numbers = [number for number, _ in (*self._anywhere[mode], *self._anchored[mode])]
        return [self.triggers[number].text.encode() for number in numbers if self.triggers[number].opens]

    def _start_key(self, mode: int) -> _Key:
        return _Key(mode, tuple(_Live(number, 0, 0) for number, _ in self._anchored[mode]), b"")

    def _state(self, key: _Key) -> WatcherState:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = WatcherState(key)
        return state

    def _step(self, state: WatcherState, token: int) -> WatcherState | TriggerHit:
        reached = self._through(state.key, self._shown.get(token) or self._tokens.pieces[token])
        return reached if isinstance(reached, TriggerHit) else self._state(reached)

    def _through(self, key: _Key, text: bytes) -> _Key | TriggerHit:
        """Follow ``text`` byte by byte."""
        for place in range(len(text)):
            found = self._byte(key, text[place])
            if isinstance(found, _Key):
                key = found
                continue
            trigger = self.triggers[found]
            if trigger.opens:
                return TriggerHit(found, text[place + 1 :])
            key = self._start_key(trigger.goes)
        return key

    def _byte(self, key: _Key, byte: int) -> _Key | int:
        """The key after one more byte, or the number of the trigger that it ends."""
        live: list[_Live] = []
        for at in key.live:
            pieces = self._pieces_of[at.trigger]
            if not at.place and byte in _SPACE:
                live.append(at)
            elif pieces[at.piece][at.place] == byte:
                place = at.place + 1
                if place < len(pieces[at.piece]):
                    live.append(_Live(at.trigger, at.piece, place))
                elif at.piece + 1 < len(pieces):
                    live.append(_Live(at.trigger, at.piece + 1, 0))
                else:
                    return at.trigger
        tail = key.tail + bytes((byte,))
        anywhere = self._anywhere[key.mode]
        while tail:
            for number, text in anywhere:
                if text == tail:
                    return number
            if any(text.startswith(tail) for _, text in anywhere):
                break
            tail = tail[1:]
        return _Key(key.mode, tuple(live), tail)

    def _forbidden(self, state: WatcherState) -> Mask | None:
        """All tokens but those that end a marker and go on with what the call's grammar doesn't allow."""
        wrong = [
            token
            for token in self._candidates(state.key)
            if isinstance(reached := self.step(state, token), TriggerHit)
            and reached.rest
            and not self._accepts(reached.trigger, reached.rest)
        ]
        if not wrong:
            return None
        mask = np.full((len(self._tokens.pieces) + 31) // 32, 0xFFFFFFFF, np.uint32)
        for token in wrong:
            mask[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
        return mask

    def _candidates(self, key: _Key) -> set[int]:
        """Tokens that may end a call's marker here. White space is passed over: it may stand between pieces."""
        remaining: set[bytes] = set()
        for at in key.live:
            pieces = self._pieces_of[at.trigger]
            remaining.add(pieces[at.piece][at.place :] + b"".join(pieces[at.piece + 1 :]))
        for number, text in self._anywhere[key.mode]:
            if self.triggers[number].opens:
                remaining |= {text[size:] for size in range(1, len(text)) if key.tail.endswith(text[:size])}
        found = set(self._whole)
        for rest in remaining:
            found.update(self._tokens.beginning(rest))
        return found


class TokenIndex:
    """A vocabulary's tokens by their bytes, in which white space is passed over."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """``pieces``: each token's bytes; control tokens have none."""
        self.pieces = pieces
        self._sorted = sorted((piece.translate(*_NO_SPACE), token) for token, piece in enumerate(pieces) if piece)
        self._containing: dict[bytes, list[int]] = {}
        self.longest = max(map(len, pieces), default=0)

    def beginning(self, text: bytes) -> list[int]:
        """Tokens that begin with ``text``."""
        text = text.translate(*_NO_SPACE)
        found: list[int] = []
        for place in range(bisect_left(self._sorted, (text, -1)), len(self._sorted)):
            bare, token = self._sorted[place]
            if not bare.startswith(text):
                break
            found.append(token)
        return found

    def containing(self, text: bytes) -> list[int]:
        """Tokens that ``text`` stands in."""
        text = text.translate(*_NO_SPACE)
        if len(self._containing) > _MAX_CACHED_TEXTS:
            self._containing.clear()
        found = self._containing.get(text)
        if found is None:
            found = [token for bare, token in self._sorted if text in bare]
            self._containing[text] = found
        return found
