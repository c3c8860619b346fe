"""A request's prompts, in all of the forms that llama-server takes."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.errors import InvalidRequest, NotSupported
from tailrace.protocol import ModelInfo
from tailrace.server.dialects.llama_server.piecewise_prompt import PieceTokenizer, TextPiece
from tailrace.server.dialects.llama_server.request_fields import ExtraContext, InfillRequest, PromptObject, Prompts

#: Prompt tokens around the gap that is to be filled, at most: a prefix's and a suffix's in the ratio 3 to 1. It is
#: llama-server's batch size by default, so that the prompts are the same.
_WINDOW = 2048
#: Tokens reserved for a reply without a limit.
_RESERVE = 128
#: The tokens that mark the parts, and the one that begins a text.
_MARKS = 4
_REPOSITORY = TextPiece("myproject\n", special=False)
_FILE = TextPiece("filename\n", special=False)
#: In front of another file's part where the model has no token for it.
_SNIPPET = TextPiece("\n\n--- snippet ---\n\n", special=False)

Piece = str | int


async def prompts_of(given: Prompts, tokens: PieceTokenizer, field: str) -> list[str | list[int]]:
    """The prompts in the field. Raises RequestError."""
    several = isinstance(given, list) and not any(isinstance(item, int) for item in given)
    found: list[str | list[int]] = []
    for index, item in enumerate(given if isinstance(given, list) and several else [given]):
        path = f"{field}[{index}]" if several else field
        pieces = _pieces(item, path)
        found.append(pieces if isinstance(pieces, str) else await _joined(pieces, tokens, path))
    return found


def _pieces(prompt: object, path: str) -> str | list[Piece]:
    if isinstance(prompt, PromptObject):
        if prompt.multimodal_data is not None:
            where = f"{path}.multimodal_data"
            raise InvalidRequest(f"'{where}': this model reads text alone.", param=where)
        return prompt.prompt_string
    if isinstance(prompt, str):
        return prompt
    assert isinstance(prompt, list), "the decoder lets nothing else through"
    pieces: list[Piece] = []
    for piece in prompt:
        if not isinstance(piece, str | int):
            raise InvalidRequest(f"'{path}' must be a list of strings and token ids.", param=path)
        pieces.append(piece)
    return pieces


async def _joined(pieces: list[Piece], tokens: PieceTokenizer, path: str) -> list[int]:
    """The tokens of the pieces: the first is tokenised like the start of a prompt, the others like text within one."""
    texts = {
        index: TextPiece(piece, start=False if index else None)
        for index, piece in enumerate(pieces)
        if isinstance(piece, str)
    }
    await tokens.tokenize(list(texts.values()), path)
    joined: list[int] = []
    for index, piece in enumerate(pieces):
        if isinstance(piece, str):
            joined += tokens.tokens_of(texts[index])
        else:
            joined.append(piece)
    return joined


async def infill_prompt(
    request: InfillRequest, info: ModelInfo, tokens: PieceTokenizer, limit: int | None
) -> list[int]:
    """The fill-in-the-middle prompt, in llama-server's order: parts of other files, the text before the gap, the text
    after it, and the text that the reply continues. ``limit`` is the reply's token limit.

    Raises RequestError.
    """
    marks = info.infill_tokens
    missing = [name for name in ("prefix", "suffix", "middle") if name not in marks]
    if missing:
        names = ", ".join(missing)
        raise NotSupported(f"Infill is not supported by this model: it has no token for {names}.")
    before = _plain(request.input_prefix)
    after = _plain(request.input_suffix)
    start_text = TextPiece(request.prompt or "")
    extra = _extra_pieces(request.input_extra or [], marks)
    texts = [piece for piece in (*before, *after, start_text, *extra) if isinstance(piece, TextPiece)]
    await tokens.tokenize(texts, "input_prefix")

    def known(pieces: Sequence[TextPiece | int]) -> list[int]:
        return [token for piece in pieces for token in ([piece] if isinstance(piece, int) else tokens.tokens_of(piece))]

    start = [] if info.start_token is None else [info.start_token]
    continued = known([start_text])
    reserve = min(limit if limit is not None else _RESERVE, info.context // 4)
    window = max(4, min(_WINDOW, info.context - reserve - _MARKS))
    quarter = window // 4
    prefix = known(before)[-3 * quarter :]
    suffix = known(after)[: max(0, quarter - 2 - len(continued))]
    spare = max(0, info.context - window - _MARKS - 2 * reserve)
    context = known(extra)
    return [
        *context[len(context) - min(len(context), spare) :],
        *start,
        marks["prefix"],
        *prefix,
        *continued,
        marks["suffix"],
        *suffix,
        marks["middle"],
    ]


def _plain(pieces: str | list[Piece]) -> list[TextPiece | int]:
    """Pieces in which names of special tokens are text."""
    listed = [pieces] if isinstance(pieces, str) else pieces
    return [TextPiece(piece, special=False) if isinstance(piece, str) else piece for piece in listed]


def _extra_pieces(extra: Sequence[ExtraContext], marks: dict[str, int]) -> list[TextPiece | int]:
    pieces: list[TextPiece | int] = []
    if (repository := marks.get("repository")) is not None:
        pieces += [repository, _REPOSITORY]
    file = marks.get("file")
    for part in extra:
        pieces += [_SNIPPET] if file is None else [file, TextPiece(f"{part.filename}\n", special=False)]
        pieces.append(TextPiece(part.text, special=False))
    if file is not None:
        pieces += [file, _FILE]
    return pieces
