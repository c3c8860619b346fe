"""llama.cpp alone: the shortest loop around llama_decode that gives greedy replies.

No scheduler, no cache bookkeeping, no reuse, no second process: what is left of a server's speed when everything that
serves is taken away. It uses the binding with llama.cpp's own defaults, not the product's backend, so that a gain of
the backend's shows too.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np

from tailrace.chat.detokenize import Detokenizer, PieceTable
from tailrace.chat.template import ChatTemplate
from tailrace.loadtest.load_stats import StreamTiming

_BATCH = 512


class BareLlama:
    """One model with a context for ``streams`` sequences of ``context`` tokens; ``unified`` shares one KV cache.

    Raises RuntimeError when llama.cpp can't load it.
    """

    def __init__(self, model: Path, *, threads: int, streams: int, context: int, unified: bool) -> None:
        # llama.cpp's log would mix with the figures. A failure shows in the returned None.
        self._silence = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._silence, ctypes.c_void_p())
        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(str(model).encode(), llama.llama_model_default_params())
        params = llama.llama_context_default_params()
        params.n_ctx = streams * context
        params.n_batch = _BATCH
        params.n_ubatch = _BATCH
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = unified
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp can't load {model} with {streams} streams of {context} tokens")
        self._memory = llama.llama_get_memory(self._context)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._size = llama.llama_vocab_n_tokens(self._vocab)
        self._vocabulary = PieceTable([self._piece(token) for token in range(self._size)])
        template = llama.llama_model_chat_template(self._model, None)
        self._template = ChatTemplate(template.decode() if template else "", bos_token="", eos_token="")
        self._batch = llama.llama_batch_init(_BATCH, 0, 1)
        seq_ids = np.arange(streams, dtype=np.int32)
        self._seq_ids = [
            seq_ids[stream : stream + 1] for stream in range(streams)
        ]  # stored, because llama.cpp's batch points into it
        self._pointers = [ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)) for ids in self._seq_ids]

    def run(self, prompts: Sequence[str], output_tokens: int) -> list[StreamTiming]:
        """One turn: a reply of exactly ``output_tokens`` to each user message.

        Prompts are prefilled one after the other, then all streams decode in one batch.
        """
        llama.llama_memory_clear(self._memory, False)
        started = time.perf_counter()
        timings: list[StreamTiming] = []
        chosen: list[list[int]] = []
        for stream, prompt in enumerate(prompts):
            tokens = self._tokens(self._template.render([{"role": "user", "content": prompt}]).text)
            chosen.append([self._prefill(stream, tokens)])
            timings.append(StreamTiming(started, [time.perf_counter()], prompt_tokens=len(tokens)))
        count = len(prompts)
        batch = self._batch
        batch.n_tokens = count
        views = [np.ctypeslib.as_array(part, (count,)) for part in (batch.token, batch.pos, batch.logits)]
        token_view, position_view, logits_view = views
        position_view[:] = [timing.prompt_tokens for timing in timings]
        logits_view[:] = 1
        for stream in range(count):
            batch.n_seq_id[stream] = 1
            batch.seq_id[stream] = self._pointers[stream]
        token_view[:] = [tokens[0] for tokens in chosen]
        step_times: list[float] = []
        steps: list[list[int]] = []
        for _ in range(output_tokens - 1):
            self._decode()
            logits = np.ctypeslib.as_array(llama.llama_get_logits(self._context), (count, self._size))
            token_view[:] = best = logits.argmax(axis=1)
            step_times.append(time.perf_counter())
            steps.append(best.tolist())
            position_view += 1
        for stream, timing in enumerate(timings):
            timing.token_times += step_times
            detokenizer = Detokenizer(self._vocabulary)
            tokens = chosen[stream] + [step[stream] for step in steps]
            timing.text = "".join(detokenizer.feed(token) for token in tokens)
        return timings

    def _prefill(self, stream: int, tokens: list[int]) -> int:
        """Prefill a prompt into an empty stream. Returns the reply's first token."""
        batch = self._batch
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            batch.n_tokens = len(part)
            for index, token in enumerate(part):
                batch.token[index] = token
                batch.pos[index] = start + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index] = self._pointers[stream]
                batch.logits[index] = start + index == len(tokens) - 1
            self._decode()
        return int(np.ctypeslib.as_array(llama.llama_get_logits(self._context), (self._size,)).argmax())

    def _decode(self) -> None:
        code = llama.llama_decode(self._context, self._batch)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with code {code}")

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (llama.llama_token * (len(data) + 2))()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, len(tokens), True, True)
        return list(tokens[:count])

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(512)
        length = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(0, length)]
