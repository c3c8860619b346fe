/* Where the maxima of the last logits lie: see kept.h. */
#include <stdatomic.h>
#include <stdlib.h>

#include "kept.h"

static float *maxima;
static size_t room; /* bytes */
static int64_t rows_kept;
static atomic_long columns_kept;

static int64_t vectors_of(int64_t rows) { return (rows + KEPT_ROWS - 1) / KEPT_ROWS; }

float *kept_of(int64_t column) { return maxima + column * vectors_of(rows_kept) * KEPT_LANES; }

void keep_nothing(void) { atomic_store(&columns_kept, 0); }

void keep_from_here(int64_t columns, int64_t rows) {
    const size_t wanted = (size_t)(columns * vectors_of(rows) * KEPT_LANES) * sizeof *maxima; /* whole lines */
    keep_nothing();
    if (columns > KEPT_COLUMNS) return;
    if (wanted > room) {
        free(maxima);
        maxima = aligned_alloc(64, wanted);
        room = maxima ? wanted : 0;
        if (!maxima) return;
    }
    rows_kept = rows;
    atomic_store(&columns_kept, columns);
}

bool keeps(int64_t columns, int64_t rows) { return atomic_load(&columns_kept) == columns && rows_kept == rows; }

/* The maxima of the last logits that were made, of how many columns and rows; 0 where nothing is kept of them. They are told
 * once, and stay until logits are made again. */
float *tailrace_kernels_kept(int64_t *columns, int64_t *rows) {
    *columns = atomic_exchange(&columns_kept, 0);
    *rows = rows_kept;
    return *columns ? maxima : 0;
}
