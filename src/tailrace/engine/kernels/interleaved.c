/* Products with interleaved weights: the whole of an operation, from activations in single precision to its result.
 *
 * A dot product of a row as the file has it ends in a sum across lanes, and needs both sides' scales made ready for it.
 * With sixteen rows side by side a lane is a row, and eight columns share what unpacking costs: 13 instructions a column
 * and block of 16 rows beyond that. */
#include "copies.h"
#include "interleaved.h"
#include "kept.h"
#include "tiles_interleaved.h"

#define LARGE (1 << 20)           /* bytes of weights from which threads take turns instead of fixed shares */
#define FIRST 4096                /* bytes of weights that a thread asks for before columns are made ready */
#define TURN 4                    /* panels of 16 rows in a turn */
#define KEPT_TURN (KEPT_ROWS / GROUP_ROWS)

/* Memory for columns, besides what llama.cpp wants for the same (34 or 36 bytes a block). */
#define MORE(blocks) ((blocks) * 8 + 128)

size_t ggml_tiled_wdata_size(int threads, struct tensor *result) {
    const struct tensor *b = result->sources[1];
    const int type = result->sources[0]->type;
    const size_t wanted = theirs.tiled_size ? theirs.tiled_size(threads, result) : 0;
    if ((type != Q4_0 && type != Q4_1 && type != Q8_0) || b->type != F32) return wanted;
    return wanted + (size_t)MORE(b->sizes[0] / 32 * b->sizes[1] * b->sizes[2] * b->sizes[3]);
}

/* ---- Columns made ready ------------------------------------------------------------------------------------------ */

/* Blocks from `from` to `till`, columns one after the other. */
INLINE void ready_of(int type, const struct tensor *b, int64_t k, uint8_t *ready, int64_t from, int64_t till) {
    const int64_t columns = b->sizes[1];
    while (from < till) {
        const int64_t j = from / k, first = j / TILE_COLUMNS * TILE_COLUMNS, end = till < (j + 1) * k ? till : (j + 1) * k;
        const int width = columns - first < TILE_COLUMNS ? (int)(columns - first) : TILE_COLUMNS;
        const float *x = (const float *)((const char *)b->data + j * (int64_t)b->strides[1]);
        uint8_t *tile = ready + first * k * COLUMN_BYTES;
        for (int64_t i = from - j * k; i < end - j * k; i++)
            quantise(format_of(type), x + 32 * i, tile + i * width * COLUMN_BYTES, width, (int)(j - first));
        from = end;
    }
}

static void make_ready(int type, const struct tensor *b, int64_t k, uint8_t *ready, int64_t from, int64_t till) {
    if (type == Q4_0) ready_of(Q4_0, b, k, ready, from, till);
    else if (type == Q4_1) ready_of(Q4_1, b, k, ready, from, till);
    else ready_of(Q8_0, b, k, ready, from, till);
}

/* ---- Whole products ---------------------------------------------------------------------------------------------- */

/* A panel (16 rows) by all columns: it stays in the nearest cache meanwhile. */
INLINE void panel_of(int type, int64_t k, const uint8_t *panel, const uint8_t *y, int64_t columns, float *c, int64_t ldc) {
    for (; columns > 0; columns -= TILE_COLUMNS, y += TILE_COLUMNS * k * COLUMN_BYTES, c += TILE_COLUMNS * ldc) {
#define TILE(N) case N: interleaved_tile(format_of(type), N, k, panel, y, c, ldc); break;
        switch (columns) {
            TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7)
            default: interleaved_tile(format_of(type), 8, k, panel, y, c, ldc);
        }
    }
}

#define PANELS(T)                                                                                                          \
    static __attribute__((noinline)) void panel_##T(int64_t k, const uint8_t *panel, const uint8_t *y, int64_t columns, \
                                                    float *c, int64_t ldc) {                                            \
        panel_of(T, k, panel, y, columns, c, ldc);                                                                      \
    }
PANELS(Q4_0) PANELS(Q4_1) PANELS(Q8_0)

static void panels(const struct interleaved *w, const uint8_t *ready, struct tensor *result, bool kept, int64_t from,
                   int64_t till) {
    const int64_t size = w->blocks * group_bytes(format_of(w->type)), ldc = (int64_t)result->strides[1] / 4;
    for (int64_t p = from; p < till; p++) {
        float *c = (float *)result->data + p * GROUP_ROWS;
        (w->type == Q4_0   ? panel_Q4_0
         : w->type == Q4_1 ? panel_Q4_1
                           : panel_Q8_0)(w->blocks, w->data + p * size, ready, result->sizes[1], c, ldc);
        if (kept) keep(c, ldc, result->sizes[1], p * GROUP_ROWS);
    }
}

bool interleaved_product(const struct call *call, const struct interleaved *w, struct tensor *result) {
    const struct tensor *b = result->sources[1];
    const int64_t k = w->blocks, columns = b->sizes[1], blocks = k * columns;
    const struct format f = format_of(w->type);
    if (b->type != F32 || b->strides[0] != 4 || b->sizes[2] != 1 || b->sizes[3] != 1) return false;
    if (call->work_size < (size_t)(blocks * COLUMN_BYTES + 64)) return false;
    uint8_t *ready = (uint8_t *)(((uintptr_t)call->work + 63) & ~(uintptr_t)63);
    const int64_t all = w->rows / GROUP_ROWS;
    const uint8_t *first = w->data + all * call->thread / call->threads * k * group_bytes(f);
    for (int line = 0; line < FIRST; line += 64) _mm_prefetch((const char *)first + line, _MM_HINT_T0);
    make_ready(w->type, b, k, ready, blocks * call->thread / call->threads, blocks * (call->thread + 1) / call->threads);
    /* Fixed shares, or turns where a thread may lose its core for a while (the HTTP process needs one, too), or where
     * cores differ. */
    const bool turns = call->threads > 1 && all * k * group_bytes(f) >= LARGE;
    /* Maxima are of rows that one thread computes. */
    const bool keeping = (turns || call->threads == 1) && makes_logits(result);
    if (keeping && call->thread == 0) keep_from_here(columns, w->rows);
    if (turns && call->thread == 0) theirs.pool_set(call->pool, call->threads);
    ggml_barrier(call->pool);
    const bool kept = keeping && keeps(columns, w->rows);
    if (!turns) {
        panels(w, ready, result, kept, all * call->thread / call->threads, all * (call->thread + 1) / call->threads);
        return true;
    }
    const int64_t each = kept ? KEPT_TURN : TURN;
    for (int64_t turn = call->thread; turn * each < all; turn = theirs.pool_add(call->pool, 1)) {
        const int64_t end = (turn + 1) * each;
        panels(w, ready, result, kept, turn * each, end < all ? end : all);
    }
    return true;
}
