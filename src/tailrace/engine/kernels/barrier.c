/* Where the threads of a pool wait for each other, some 600 times a step, in the place of llama.cpp's own.
 *
 * Compiled with OpenMP, llama.cpp has OpenMP wait, and libgomp makes a system call at every barrier in case somebody
 * sleeps there. Here nobody is woken who doesn't sleep. SmolLM2-135M on 2 cores (Zen 5), ÷ libgomp's: 1.07 of its speed at
 * one stream, 1.02 at four.
 */
#include <immintrin.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi.h"

#define POOLS 64

struct barrier {
    _Atomic(void *) pool;
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint passed; /* how often: it comes round every few hours, which unsigned numbers may */
    atomic_int asleep;
};

static struct barrier barriers[POOLS];
static int spins = 1000;
/* How many times this thread looks before it sleeps: `spins` at most, LEAST of them at least. Who has looked in vain waits
 * for a thread that has lost its core to somebody else, and with every further look may keep a core from that one. So it
 * looks less often after each time in vain, and all the more again within some 70 barriers. Two engines on two cores had
 * 2 or 98 tokens a second each, whichever way they fell into step, and steps of 540 ms; so 43 to 79, and of 26. Beside a
 * busy process 27 to 45 became 46 to 48, alone 270 stayed (6 turns each). */
struct waiting {
    int64_t patience;
    struct barrier *last; /* that this thread waited at */
};
static _Thread_local struct waiting waiting_of_thread = {INT64_MAX, 0};
#define LEAST 64 /* a 64th: 20 to 50 us of the default, more than one thread's small operations take the others to wait for */

/* How many times threads look before they sleep. */
void tailrace_kernels_spin(int turns) { spins = turns; }

/* The pool's barrier: entries stay where they are, and a pool that is freed leaves its own at rest. 0 when all are taken. */
static struct barrier *barrier_of(void *pool, struct barrier *last) {
    if (last && atomic_load_explicit(&last->pool, memory_order_relaxed) == pool) return last;
    for (int i = 0; i < POOLS; i++) {
        struct barrier *b = barriers + ((uintptr_t)pool / 64 + i) % POOLS;
        void *free = 0;
        if (atomic_load(&b->pool) == pool || atomic_compare_exchange_strong(&b->pool, &free, pool) || free == pool)
            return b;
    }
    return 0;
}

void ggml_barrier(void *pool) {
    struct waiting *own = OWN(waiting_of_thread);
    struct barrier *b = own->last = theirs.threads ? barrier_of(pool, own->last) : 0;
    if (!b) {
        theirs.pool_wait(pool);
        return;
    }
    const int threads = theirs.threads();
    if (threads == 1) return;
    const unsigned passed = atomic_load_explicit(&b->passed, memory_order_relaxed);
    if (atomic_fetch_add(&b->arrived, 1) == threads - 1) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        atomic_store(&b->passed, passed + 1);
        if (atomic_load(&b->asleep)) syscall(SYS_futex, &b->passed, FUTEX_WAKE_PRIVATE, threads, 0, 0, 0);
        return;
    }
    if (own->patience > spins) own->patience = spins;
    for (int64_t turn = 0; turn < own->patience; turn++) {
        if (atomic_load_explicit(&b->passed, memory_order_acquire) != passed) {
            own->patience += own->patience / 16 + 1;
            return;
        }
        _mm_pause();
    }
    own->patience = own->patience / 4 > spins / LEAST ? own->patience / 4 : spins / LEAST;
    atomic_fetch_add(&b->asleep, 1);
    while (atomic_load(&b->passed) == passed) syscall(SYS_futex, &b->passed, FUTEX_WAIT_PRIVATE, passed, 0, 0, 0);
    atomic_fetch_sub(&b->asleep, 1);
}
