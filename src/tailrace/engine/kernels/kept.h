/* What is kept of a step's logits while they are in a register: who chooses tokens needn't read a megabyte a row for it.
 *
 * Of each column of the output matrix's product the greatest of its rows in each lane of 256: lane r % 16 of vector
 * r / 256 is the greatest of 16 rows r. That is what the passes over rows of logits remember (engine/rows/rows.h). */
#pragma once
#include <immintrin.h>
#include <string.h>

#include "abi.h"

enum { KEPT_COLUMNS = 64, KEPT_ROWS = 256, KEPT_LANES = 16 }; /* columns at most; rows of a vector */

/* Whether this is the product that makes logits: llama.cpp's name for it. */
INLINE bool makes_logits(const struct tensor *result) {
    return !memcmp(result->name, "result_output", sizeof "result_output");
}

/* Makes room for so many columns and rows, if that can be done. By one thread, before a barrier. */
void keep_from_here(int64_t columns, int64_t rows);
/* Whether there is room for this product's, after the barrier. */
bool keeps(int64_t columns, int64_t rows);
/* Where a column's maxima stand then. */
float *kept_of(int64_t column);
/* What was kept is of other logits than the last, or one of these isn't a number. */
void keep_nothing(void);

/* Takes over 16 rows from `row` on of so many columns. Whoever computes the first of 256 rows computes all of them. */
INLINE void keep(const float *c, int64_t ldc, int64_t columns, int64_t row) {
    for (int64_t j = 0; j < columns; j++) {
        const __m512 x = _mm512_loadu_ps(c + j * ldc);
        float *near = kept_of(j) + row / KEPT_ROWS * KEPT_LANES;
        if (_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q)) keep_nothing();
        _mm512_storeu_ps(near, row % KEPT_ROWS ? _mm512_max_ps(x, _mm512_loadu_ps(near)) : x);
    }
}
