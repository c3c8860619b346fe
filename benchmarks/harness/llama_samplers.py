"""llama.cpp's own sampler chain through the binding, over rows that come from anywhere: no model, no context.

The measure of tailrace's sampling in speed (``benchmarks.sampling``) and in meaning (the tests compare distributions).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence as Seq
from types import TracebackType

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from tailrace.messages import Sampling

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class LlamaChain:
    """Bias, penalties, top_k, top_p, min_p, temperature and draw, in llama.cpp's order and with its own code.

    The repeat penalty sees ``history``, frequency and presence penalties see ``reply``; a single penalties sampler of
    llama.cpp's would count both over the same tokens. A context manager: leaving it frees the chain.
    """

    def __init__(self, size: int, params: Sampling, history: Seq[int] = (), reply: Seq[int] = ()) -> None:
        self._data = np.zeros(size, _TOKEN_DATA)
        self._ids = np.arange(size, dtype=np.int32)
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if params.logit_bias:
            biases = [llama.llama_logit_bias(token, bias) for token, bias in params.logit_bias.items()]
            array = (llama.llama_logit_bias * len(biases))(*biases)
            self._add(llama.llama_sampler_init_logit_bias(size, len(biases), array))
        if params.repeat_penalty != 1.0:
            last = params.repeat_last_n if params.repeat_last_n >= 0 else len(history)
            self._penalise(size, history, last, params.repeat_penalty, 0.0, 0.0)
        if params.frequency_penalty or params.presence_penalty:
            self._penalise(size, reply, len(reply), 1.0, params.frequency_penalty, params.presence_penalty)
        if params.temperature > 0.0:
            self._add(llama.llama_sampler_init_top_k(params.top_k))
            self._add(llama.llama_sampler_init_top_p(params.top_p, 0))
            self._add(llama.llama_sampler_init_min_p(params.min_p, 0))
            self._add(llama.llama_sampler_init_temp(params.temperature))
            self._add(llama.llama_sampler_init_dist(params.seed or 0))
        else:
            self._add(llama.llama_sampler_init_greedy())

    def __enter__(self) -> LlamaChain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        llama.llama_sampler_free(self._chain)

    def sample(self, row: npt.NDArray[np.float32]) -> int:
        """The chosen token. Writes the candidates as ``llama_sampler_sample`` does."""
        array = self._apply(row)
        return int(self._data["id"][array.selected])

    def distribution(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Every token's probability when the chain draws; for a greedy one use ``sample``."""
        array = self._apply(row)
        probabilities = np.zeros(len(row))
        kept = self._data[: array.size]
        probabilities[kept["id"]] = kept["p"]
        return probabilities

    def _apply(self, row: npt.NDArray[np.float32]) -> llama.llama_token_data_array:
        self._data["id"] = self._ids
        self._data["logit"] = row
        self._data["p"] = 0.0
        pointer = ctypes.cast(self._data.ctypes.data, llama.llama_token_data_p)
        array = llama.llama_token_data_array(data=pointer, size=len(row), selected=-1, sorted=False)
        llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        return array

    def _penalise(
        self, size: int, tokens: Seq[int], last: int, repeat: float, frequency: float, presence: float
    ) -> None:
        sampler = llama.llama_sampler_init_penalties(size, last, repeat, frequency, presence)
        for token in tokens:
            llama.llama_sampler_accept(sampler, token)
        self._add(sampler)

    def _add(self, sampler: object) -> None:
        llama.llama_sampler_chain_add(self._chain, sampler)
