"""The messages of the HTTP process to an engine: generations, queries, cancellations."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tailrace.generation_params import GenerationParams, seeded
from tailrace.prompt_text import PromptText

#: How a text's embeddings of tokens become one vector: their mean, the first token's or the last one's.
Pooling = Literal["mean", "cls", "last"]


class Submit(msgspec.Struct, tag="submit", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for one generation, or for several ``copies`` with the same prompt. ``id`` is unique among all requests that
    the HTTP process has in flight.

    ``prompt`` is text (tokenised by the engine) or token ids. The copies have the ids from ``id`` on, and each ends in
    a terminal event of its own. Before the engine's first answer a ``Cancel`` of ``id`` ends all of them.
    """

    id: int
    prompt: PromptText | list[int]
    params: GenerationParams = GenerationParams()
    copies: Annotated[int, msgspec.Meta(ge=1)] = 1  #: how many generations; copy i has the seed of ``seeded``
    progress: bool = False  #: whether ``Progress`` is sent while the prompt is computed
    caller: str = ""  #: whose request it is: the engine shares its time between callers

    def copy_number(self, number: int) -> Submit:
        """The submit of one of the copies alone."""
        return msgspec.structs.replace(self, id=self.id + number, params=seeded(self.params, number), copies=1)


class Tokenize(msgspec.Struct, tag="tokenize", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the tokens of ``text``. ``parse_special``: special tokens are recognised by their names. ``add_special``:
    with the tokens that the model wants around a text; None is as in a ``Submit``'s prompt.
    """

    id: int
    text: PromptText
    parse_special: bool = True
    add_special: bool | None = None
    caller: str = ""  #: see ``Submit``


class Embed(msgspec.Struct, tag="embed", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for one vector for each input (plain text, or token ids). ``pooling`` None is the model's own."""

    id: int
    inputs: list[str | list[int]]
    pooling: Pooling | None = None
    caller: str = ""  #: see ``Submit``


class Rank(msgspec.Struct, tag="rank", frozen=True, kw_only=True, omit_defaults=True):
    """Ask how well each document answers the query. Special tokens' names are plain text in all of them.

    A document that doesn't fit into the context beside the query is refused. With ``truncate`` it is cut instead, at
    its end, or at its start with ``keep_end``; and to ``document_tokens``, where they are given.
    """

    id: int
    query: str
    documents: list[str]
    truncate: bool = False
    keep_end: bool = False
    document_tokens: int | None = None
    caller: str = ""  #: see ``Submit``


class Score(msgspec.Struct, tag="score", frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the probability of each of the prompt's tokens after those before it, and of the ``top`` likeliest."""

    id: int
    prompt: str | list[int]
    top: int = 0
    caller: str = ""  #: see ``Submit``


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Stop a generation; nothing more is sent for the id once the engine has read this."""

    id: int


#: Requests that aren't generations.
EngineQuery = Tokenize | Embed | Rank | Score
ToEngine = Submit | Cancel | Tokenize | Embed | Rank | Score
