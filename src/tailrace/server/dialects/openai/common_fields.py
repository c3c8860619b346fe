"""The sampling and scheduling fields of all of OpenAI's dialects, with their ranges."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tailrace.server.dialects.openai.llama_vllm_fields import CompatFields
from tailrace.server.dialects.openai.sampler_fields import LastTokens, Probability, Temperature
from tailrace.server.stop_fields import Stops

Penalty = Annotated[float, Meta(ge=-2, le=2)]
#: Logits divided by much less are no numbers any more.
Repeat = Annotated[float, Meta(ge=0.01, le=10)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
#: Whether the model has such a token is known later; this much fits into a message to the engine.
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
#: A number of tokens, or -1 for no limit. 0 is refused where the value is read: see ``limit``.
Limit = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
#: ``false`` bans the token.
Bias = Annotated[float, Meta(ge=-100, le=100)] | bool
#: By token, as OpenAI has it, or as llama-server's pairs.
LogitBias = dict[TokenId, Bias] | list[tuple[TokenId, Bias]]

#: Keys and values of metadata, as the API's reference bounds them.
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class CommonFields(CompatFields, kw_only=True):
    """The fields that chat completions, text completions and responses share; null equals absent everywhere.

    A new parameter of generation for OpenAI's dialects gets its field here, and its line in ``generation_params``.
    """

    stop: Stops | None = None
    seed: int | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    # Common extensions of local servers
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Probability | None = None
    repeat_penalty: Repeat | None = None
    repetition_penalty: Repeat | None = None
    repeat_last_n: LastTokens | None = None
    penalty_last_n: LastTokens | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=256)] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    # llama-server's figures: see ``timing_fields``
    timings_per_token: bool | None = None
    return_progress: bool | None = None
