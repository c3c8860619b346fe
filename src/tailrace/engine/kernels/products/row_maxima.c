/* The memory of the row maxima: see row_maxima.h. */
#include <stdatomic.h>
#include <stdlib.h>

#include "products/row_maxima.h"

#define MAX_TOKENS 64

static float *maxima;
static size_t capacity; /* bytes */
static int64_t recorded_rows;
static atomic_long recorded_tokens; /* 0: nothing is recorded */

static int64_t vectors_of(int64_t n_rows) { return (n_rows + MAXIMA_ROWS - 1) / MAXIMA_ROWS; }

float *row_maxima_of(int64_t token) { return maxima + token * vectors_of(recorded_rows) * MAXIMA_LANES; }

void forget_row_maxima(void) { atomic_store(&recorded_tokens, 0); }

void begin_row_maxima(int64_t n_tokens, int64_t n_rows) {
    const size_t bytes =
        (size_t)(n_tokens * vectors_of(n_rows) * MAXIMA_LANES) * sizeof *maxima; /* whole cache lines */
    forget_row_maxima();
    if (n_tokens > MAX_TOKENS) return;
    if (bytes > capacity) {
        free(maxima);
        maxima = aligned_alloc(64, bytes);
        capacity = maxima ? bytes : 0;
        if (!maxima) return;
    }
    recorded_rows = n_rows;
    atomic_store(&recorded_tokens, n_tokens);
}

bool has_row_maxima(int64_t n_tokens, int64_t n_rows) {
    return atomic_load(&recorded_tokens) == n_tokens && recorded_rows == n_rows;
}

/* The row maxima of the last logits, and of how many tokens and rows these are; 0 where there are none. They are
 * returned once and stay valid until logits are computed again. */
EXPORT float *tailrace_kernels_take_row_maxima(int64_t *n_tokens, int64_t *n_rows) {
    *n_tokens = atomic_exchange(&recorded_tokens, 0);
    *n_rows = recorded_rows;
    return *n_tokens ? maxima : 0;
}
