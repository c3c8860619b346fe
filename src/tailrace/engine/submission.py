"""From a ``Submit`` to a ``Sequence``: checks what this model can run and which texts have to be tokenised for it.

Pure functions over the message and the backend. The intake tokenises between the two halves, on threads of its own.
"""

from __future__ import annotations

from tailrace.engine.backends.base import Backend
from tailrace.engine.embeddings import only_use
from tailrace.engine.sampling.logits_ops.masks import allow_all_but
from tailrace.engine.sampling.token_facts import sampling_vocabulary
from tailrace.engine.sequence import Sequence
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.prompt_text import PromptText
from tailrace.protocol import Refused, RefusedField, Submit

#: Bytes of text beyond which a prompt that can't fit is refused by its size, without tokenising it.
LARGE_TEXT_BYTES = 1_000_000
#: Characters of a prediction that are used for each token of the context: a reply can't be longer.
_PREDICTION_CHARACTERS = 8


def prepare_sequence(backend: Backend, submit: Submit) -> Sequence | Refused:
    """A sequence ready to run, or why the submit can't be run. Tokenises in the caller's thread, so only for texts that
    are trusted: a hostile text can take minutes or end the process.
    """
    texts = prompt_texts(backend, submit)
    if isinstance(texts, Refused):
        return texts
    return build_sequence(backend, submit, [backend.tokenize_prompt(text) for text in texts])


def prompt_texts(backend: Backend, submit: Submit) -> list[TokenizerInput] | Refused:
    """The texts whose tokens ``build_sequence`` needs, or why the submit can't be run."""
    context = backend.info.context
    if not backend.info.generates:
        return Refused(submit.id, "unsupported", f"this model {only_use(backend)}")
    if submit.params.suffix is not None and backend.fim_tokens is None:
        return Refused(submit.id, "unsupported", "this model has no tokens for filling in the middle")
    texts: list[TokenizerInput] = []
    if isinstance(submit.prompt, PromptText):
        # Tokenising 30 MB takes seconds. Below a megabyte the refusal names the exact number of tokens.
        size_bytes = len(submit.prompt.text.encode())
        min_tokens = size_bytes // backend.max_token_bytes
        if size_bytes > LARGE_TEXT_BYTES and min_tokens >= context:
            return _too_long(submit.id, context, min_tokens, f"at least {min_tokens}")
        texts.append(
            TokenizerInput.of_prompt(submit.prompt)
            if submit.params.suffix is None
            else TokenizerInput(submit.prompt.text, parse_special=False, add_special=False)
        )
    if submit.params.suffix is not None:
        min_tokens = len(submit.params.suffix.encode()) // backend.max_token_bytes
        if min_tokens >= context:
            return _too_long(submit.id, context, min_tokens, f"at least {min_tokens}", "suffix")
        texts.append(TokenizerInput(submit.params.suffix, "suffix", parse_special=False, add_special=False))
    if submit.params.prediction:
        texts.append(TokenizerInput(submit.params.prediction[: context * _PREDICTION_CHARACTERS], "prediction"))
    return texts


def build_sequence(backend: Backend, submit: Submit, tokenised: list[list[int]]) -> Sequence | Refused:
    """A sequence ready to run, or why the submit can't be run.

    ``tokenised``: the tokens of each of ``prompt_texts``'s texts. The sequence takes these lists over.
    """
    context = backend.info.context
    size = len(backend.vocabulary)
    remaining = iter(tokenised)
    if isinstance(submit.prompt, PromptText):
        tokens = next(remaining)
    else:
        tokens = submit.prompt
        if not all(0 <= token < size for token in tokens):
            return Refused(submit.id, "invalid_prompt", f"token ids must be between 0 and {size - 1}")
    if submit.params.suffix is not None:
        tokens = _infill(backend, tokens, next(remaining))
    if not tokens:
        if backend.start_token is None:
            return Refused(submit.id, "invalid_prompt", "the prompt is empty, and this model has no start token")
        tokens = [backend.start_token]
    if len(tokens) >= context:
        return _too_long(submit.id, context, len(tokens), str(len(tokens)))
    bias = submit.params.sampling.logit_bias
    if not all(0 <= token < size for token in bias):
        return Refused(submit.id, "invalid_prompt", f"token ids must be between 0 and {size - 1}", field="logit_bias")
    prediction = next(remaining)[:context] if submit.params.prediction else None
    sequence = Sequence(submit, tokens, context, backend.end_tokens, prediction, sampling_vocabulary(backend))
    if submit.params.min_tokens:
        sequence.min_tokens_mask = allow_all_but(backend.end_tokens.union(submit.params.stop_tokens), size)
    return sequence


def build_sequences(backend: Backend, submit: Submit, tokenised: list[list[int]]) -> list[Sequence] | Refused:
    """The same for each of the submit's copies. The prompt is checked once."""
    first = build_sequence(backend, submit, tokenised)
    if isinstance(first, Refused):
        return first
    copies = [first]
    for number in range(1, submit.copies):
        copy = Sequence(
            submit.copy_number(number),
            [*first.tokens],
            backend.info.context,
            backend.end_tokens,
            [*first.prediction],
            sampling_vocabulary(backend),
        )
        copy.min_tokens_mask = first.min_tokens_mask
        copies.append(copy)
    return copies


def _infill(backend: Backend, prefix: list[int], suffix: list[int]) -> list[int]:
    """Prefix, suffix, middle: the order that most models are trained on."""
    assert backend.fim_tokens is not None, "prompt_texts refuses a suffix otherwise"
    before, after, middle = backend.fim_tokens
    start = backend.tokenize("", add_special=True)[:1]  # Some models want an end token around a text, too.
    start = start if start == [backend.start_token] else []
    return [*start, before, *prefix, after, *suffix, middle]


def _too_long(identity: int, context: int, tokens: int, shown: str, field: RefusedField = "prompt") -> Refused:
    return Refused(
        identity,
        "context_length_exceeded",
        f"This model's maximum context length is {context} tokens, but the {field} has {shown} tokens; "
        f"one must be left for the reply. Shorten the {field}.",
        tokens,
        context,
        field,
    )
