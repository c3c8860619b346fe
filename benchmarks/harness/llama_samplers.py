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

from tailrace.generation_params import SAMPLER_ORDER, SamplerName, Sampling

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class LlamaChain:
    """Bias and samplers in the order that ``params`` have them in and the draw, with llama.cpp's own code.

    The repeat penalty and DRY see ``history``, frequency and presence penalties see ``reply``; a single penalties
    sampler of llama.cpp's would count both over the same tokens. ``vocab`` is llama.cpp's: what DRY's breakers and
    infill are looked up in. A context manager: leaving it frees the chain.
    """

    def __init__(
        self,
        size: int,
        params: Sampling,
        history: Seq[int] = (),
        reply: Seq[int] = (),
        vocab: object | None = None,
    ) -> None:
        self._data = np.zeros(size, _TOKEN_DATA)
        self._ids = np.arange(size, dtype=np.int32)
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._params, self._vocab = params, vocab
        if params.logit_bias:
            biases = [llama.llama_logit_bias(token, bias) for token, bias in params.logit_bias.items()]
            array = (llama.llama_logit_bias * len(biases))(*biases)
            self._add(llama.llama_sampler_init_logit_bias(size, len(biases), array))
        seed = (params.seed or 0) % 2**32
        if params.mirostat:
            self._add(llama.llama_sampler_init_temp(params.temperature))
            tau, eta = params.mirostat_tau, params.mirostat_eta
            if params.mirostat == 1:
                self._add(llama.llama_sampler_init_mirostat(size, seed, tau, eta, 100))
            else:
                self._add(llama.llama_sampler_init_mirostat_v2(seed, tau, eta))
            return
        if params.samplers is None and params.temperature <= 0.0:
            # llama.cpp's fastest chain.
            for name in ("penalties", "dry"):
                self._sampler(name, size, seed, history, reply)
            self._add(llama.llama_sampler_init_greedy())
            return
        order = SAMPLER_ORDER if params.samplers is None else params.samplers
        for name in order:
            self._sampler(name, size, seed, history, reply)
        if "adaptive_p" in order:
            self._add(llama.llama_sampler_init_adaptive_p(params.adaptive_target, params.adaptive_decay, seed))
        else:
            self._add(llama.llama_sampler_init_dist(seed))

    def _sampler(self, name: SamplerName, size: int, seed: int, history: Seq[int], reply: Seq[int]) -> None:
        params = self._params
        match name:
            case "penalties":
                if params.repeat_penalty != 1.0:
                    last = params.repeat_last_n if params.repeat_last_n >= 0 else len(history)
                    self._penalise(size, history, last, params.repeat_penalty, 0.0, 0.0)
                if params.frequency_penalty or params.presence_penalty:
                    counted = 1.0, params.frequency_penalty, params.presence_penalty
                    self._penalise(size, reply, len(reply), *counted)
            case "dry":
                self._dry(history)
            case "top_n_sigma":
                self._add(llama.llama_sampler_init_top_n_sigma(params.top_n_sigma))
            case "top_k":
                self._add(llama.llama_sampler_init_top_k(params.top_k))
            case "typ_p":
                self._add(llama.llama_sampler_init_typical(params.typical_p, params.min_keep))
            case "top_p":
                self._add(llama.llama_sampler_init_top_p(params.top_p, params.min_keep))
            case "min_p":
                self._add(llama.llama_sampler_init_min_p(params.min_p, params.min_keep))
            case "xtc":
                chance, threshold = params.xtc_probability, params.xtc_threshold
                self._add(llama.llama_sampler_init_xtc(chance, threshold, params.min_keep, seed))
            case "temperature":
                spread, exponent = params.dynatemp_range, params.dynatemp_exponent
                self._add(llama.llama_sampler_init_temp_ext(params.temperature, spread, exponent))
            case "infill":
                self._add(llama.llama_sampler_init_infill(self._vocab))

    def _dry(self, history: Seq[int]) -> None:
        params = self._params
        texts = [text.encode() for text in params.dry_sequence_breakers] if self._vocab is not None else []
        sampler = llama.llama_sampler_init_dry(
            self._vocab,
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            params.dry_penalty_last_n if params.dry_penalty_last_n >= 0 else len(history),
            (ctypes.c_char_p * len(texts))(*texts),
            len(texts),
        )
        for token in history:
            llama.llama_sampler_accept(sampler, token)
        self._add(sampler)

    def __enter__(self) -> LlamaChain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        llama.llama_sampler_free(self._chain)

    def sample(self, row: npt.NDArray[np.float32]) -> int:
        """The chosen token. Writes the candidates as ``llama_sampler_sample`` does."""
        array = self._apply(row)
        return int(self._remaining(array)["id"][array.selected])

    def accept(self, token: int) -> None:
        """The token becomes part of every sampler's history."""
        llama.llama_sampler_accept(self._chain, token)

    def distribution(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Every token's probability when the chain draws; for a greedy one use ``sample``."""
        return self.step(row)[0]

    def step(self, row: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], int]:
        """The same, and the token that it has drawn."""
        array = self._apply(row)
        probabilities = np.zeros(len(row))
        remaining = self._remaining(array)
        probabilities[remaining["id"]] = remaining["p"]
        return probabilities, int(remaining["id"][array.selected])

    def _remaining(self, array: llama.llama_token_data_array) -> npt.NDArray[np.void]:
        """The candidates that are left: XTC takes them from the front."""
        begin = ctypes.cast(array.data, ctypes.c_void_p).value
        assert begin is not None
        first = (begin - self._data.ctypes.data) // _TOKEN_DATA.itemsize
        return self._data[first : first + array.size]

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
