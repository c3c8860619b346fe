"""Threads of a pool wait for each other."""

from __future__ import annotations

import ctypes
import threading

import pytest

from tailrace.engine.kernels.proofs.stand_in import set_upstream


@pytest.mark.parametrize("spins", [0, 640, 1_000_000, 2**31 - 1], ids=["asleep", "some", "many", "unlimited"])
def test_threads_wait_for_each_other(library: ctypes.CDLL, spins: int) -> None:
    """No thread passes before all have arrived, in two pools at the same time, whether threads sleep or spin."""
    threads = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 2)
    set_upstream(library, {"omp_get_num_threads": threads})
    library.tailrace_kernels_set_spins(spins)
    arrived = [[0, 0], [0, 0]]
    early: list[tuple[int, int]] = []

    def run(pool: int, one: int) -> None:
        for turn in range(1, 201):
            arrived[pool][one] = turn
            library.ggml_barrier(ctypes.c_void_p(0x1000 * (pool + 1)))
            if arrived[pool][1 - one] < turn:
                early.append((pool, turn))
            library.ggml_barrier(ctypes.c_void_p(0x1000 * (pool + 1)))

    workers = [threading.Thread(target=run, args=(pool, one)) for pool in range(2) for one in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    set_upstream(library, {})
    assert arrived == [[200, 200], [200, 200]]
    assert early == []
