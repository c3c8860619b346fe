/* ggml_barrier, where the threads of a pool wait for each other some 600 times a step.
 *
 * With OpenMP, upstream's barrier is libgomp's, which makes a system call each time in case a thread sleeps there. This
 * one makes a system call only when a thread does sleep: 1.07 times the speed at one stream. */
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loading/ggml_api.h"

#define MAX_POOLS 64
/* A thread polls at least 1/64 of max_spins times: 20 to 50 us of the default, which is longer than the threads' small
 * operations differ. */
#define MIN_SPINS_DIVISOR 64

struct barrier {
    _Atomic(void *) pool;
    _Alignas(64) atomic_int n_arrived;
    _Alignas(64) atomic_uint n_passed; /* wraps around every few hours, which unsigned numbers may */
    atomic_int n_asleep;
};

static struct barrier barriers[MAX_POOLS];
static int max_spins = 1000;

/* How many times this thread polls before it sleeps.
 *
 * A poll in vain means that another thread has lost its core to another process, and each further poll may keep a core
 * from it. So the number falls to a quarter after each time in vain and rises again within some 70 barriers. Without
 * it, two engines on the same two cores have steps of 540 ms, with it 26. */
struct spinner {
    int64_t spins;
    struct barrier *last; /* the barrier that this thread used last */
};
static _Thread_local struct spinner thread_spinner = {INT64_MAX, 0};

/* How many times a thread polls, at most, before it sleeps. */
EXPORT void tailrace_kernels_set_spins(int spins) { max_spins = spins; }

/* The barrier of a pool; 0 when all are taken. Entries are never freed: a pool that is freed leaves its own at rest. */
static struct barrier *find_barrier(void *pool, struct barrier *last) {
    if (last && atomic_load_explicit(&last->pool, memory_order_relaxed) == pool) return last;
    for (int i = 0; i < MAX_POOLS; i++) {
        struct barrier *b = barriers + ((uintptr_t)pool / 64 + i) % MAX_POOLS;
        void *owner = 0;
        if (atomic_load(&b->pool) == pool || atomic_compare_exchange_strong(&b->pool, &owner, pool) || owner == pool)
            return b;
    }
    return 0;
}

EXPORT void ggml_barrier(struct ggml_threadpool *pool) {
    struct spinner *spinner = TLS_PTR(thread_spinner);
    struct barrier *b = spinner->last = upstream.omp_get_num_threads ? find_barrier(pool, spinner->last) : 0;
    if (!b) {
        if (!upstream.ggml_barrier) {
            /* Callers check can_share_work first. To go on without waiting would compute wrong results. */
            fputs("tailrace: threads can't wait for each other: llama.cpp has no ggml_barrier\n", stderr);
            abort();
        }
        upstream.ggml_barrier(pool);
        return;
    }
    const int n_threads = upstream.omp_get_num_threads();
    if (n_threads == 1) return;
    const unsigned n_passed = atomic_load_explicit(&b->n_passed, memory_order_relaxed);
    if (atomic_fetch_add(&b->n_arrived, 1) == n_threads - 1) {
        atomic_store_explicit(&b->n_arrived, 0, memory_order_relaxed);
        atomic_store(&b->n_passed, n_passed + 1);
        if (atomic_load(&b->n_asleep)) syscall(SYS_futex, &b->n_passed, FUTEX_WAKE_PRIVATE, n_threads, 0, 0, 0);
        return;
    }
    if (spinner->spins > max_spins) spinner->spins = max_spins;
    for (int64_t spin = 0; spin < spinner->spins; spin++) {
        if (atomic_load_explicit(&b->n_passed, memory_order_acquire) != n_passed) {
            spinner->spins += spinner->spins / 16 + 1;
            return;
        }
        pause_cpu();
    }
    const int64_t min_spins = max_spins / MIN_SPINS_DIVISOR;
    spinner->spins = spinner->spins / 4 > min_spins ? spinner->spins / 4 : min_spins;
    atomic_fetch_add(&b->n_asleep, 1);
    while (atomic_load(&b->n_passed) == n_passed)
        syscall(SYS_futex, &b->n_passed, FUTEX_WAIT_PRIVATE, n_passed, 0, 0, 0);
    atomic_fetch_sub(&b->n_asleep, 1);
}
