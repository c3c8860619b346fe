/* Products with interleaved weights: the whole of an operation, from activations in single precision to its result.
 *
 * A dot product of a row as the file has it ends in a sum across lanes, and needs both sides' scales made ready for it.
 * With sixteen rows side by side a lane is a row, and eight columns share what unpacking costs: 13 instructions a column
 * and 32 weights of 16 rows beyond that. */
#include "copies.h"
#include "interleaved.h"
#include "kept.h"
#include "tiles_interleaved.h"

#define FIRST 4096                         /* bytes of weights that a thread asks for before columns are made ready */
#define KEPT_TURN (KEPT_ROWS / GROUP_ROWS) /* panels of 16 rows in a turn whose maxima are kept */
#define TURN (1 << 20)                     /* bytes of any other: a step of 2.4 GB took 80 ms with long ones, 84 with 147 KB */

/* Numbers up to which each thread makes all columns ready for itself: that takes less time than to wait for the others. */
#define ALONE 2048

INLINE int64_t ready_bytes(int type) { return super_blocks(type) ? column_bytes_k(type) : COLUMN_BYTES; }

/* Memory for so many numbers made ready. */
INLINE size_t ready_room(int type, int64_t numbers) { return (size_t)(numbers / numbers_of(type) * ready_bytes(type) + 64); }

size_t ggml_tiled_wdata_size(int threads, struct tensor *result) {
    const struct tensor *b = result->sources[1];
    const int type = result->sources[0]->type;
    const size_t wanted = theirs.tiled_size ? theirs.tiled_size(threads, result) : 0;
    if (b->type != F32 || !may_copy(type)) return wanted;
    const int64_t numbers = b->sizes[0] * b->sizes[1];
    const size_t own = ready_room(type, numbers) * (size_t)(numbers <= ALONE ? threads : 1);
    return own > wanted ? own : wanted;
}

/* ---- Columns made ready ------------------------------------------------------------------------------------------ */

/* Blocks from `from` to `till`, columns one after the other. */
INLINE void ready_of(int type, const struct tensor *b, int64_t k, uint8_t *ready, int64_t from, int64_t till) {
    const int64_t columns = b->sizes[1];
    while (from < till) {
        const int64_t j = from / k, first = j / TILE_COLUMNS * TILE_COLUMNS, end = till < (j + 1) * k ? till : (j + 1) * k;
        const int width = columns - first < TILE_COLUMNS ? (int)(columns - first) : TILE_COLUMNS;
        const float *x = (const float *)((const char *)b->data + j * (int64_t)b->strides[1]);
        uint8_t *tile = ready + first * k * ready_bytes(type);
        for (int64_t i = from - j * k; i < end - j * k; i++) {
            uint8_t *block = tile + i * width * ready_bytes(type);
            if (super_blocks(type)) quantise_k(type, x + 256 * i, block, width, (int)(j - first));
            else quantise(format_of(type), x + 32 * i, block, width, (int)(j - first));
        }
        from = end;
    }
}

/* ---- Whole products ---------------------------------------------------------------------------------------------- */

INLINE void tile_of(int type, enum source from, int columns, int64_t k, const uint8_t *panel, const uint8_t *y, float *c, int64_t ldc) {
    if (super_blocks(type)) interleaved_super_tile(type, from, columns, k, panel, y, c, ldc);
    else interleaved_tile(format_of(type), from, columns, k, panel, y, c, ldc);
}

/* A panel (16 rows) by all columns: it stays in the nearest cache meanwhile. */
INLINE void panel_of(int type, enum source from, int64_t k, const uint8_t *panel, const uint8_t *y, int64_t columns, float *c,
                     int64_t ldc) {
    for (; columns > 0; columns -= TILE_COLUMNS, y += TILE_COLUMNS * k * ready_bytes(type), c += TILE_COLUMNS * ldc) {
#define TILE(N) case N: tile_of(type, from, N, k, panel, y, c, ldc); break;
        switch (columns) {
            TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7)
            default: tile_of(type, from, 8, k, panel, y, c, ldc);
        }
    }
}

/* What knows its format when it is compiled. */
typedef void (*panel_function)(int64_t k, const uint8_t *panel, const uint8_t *y, int64_t columns, float *c, int64_t ldc);
struct functions {
    void (*ready)(const struct tensor *b, int64_t k, uint8_t *ready, int64_t from, int64_t till);
    panel_function panel[2]; /* by where weights come from */
};

#define PANEL(T, FROM)                                                                                               \
    static void panel_##T##_##FROM(int64_t k, const uint8_t *panel, const uint8_t *y, int64_t columns, float *c, int64_t ldc) { \
        panel_of(T, FROM, k, panel, y, columns, c, ldc);                                                             \
    }
#define FORMAT(T)                                                                                                    \
    static void ready_##T(const struct tensor *b, int64_t k, uint8_t *ready, int64_t from, int64_t till) {           \
        ready_of(T, b, k, ready, from, till);                                                                        \
    }                                                                                                                \
    PANEL(T, CACHE) PANEL(T, MEMORY)                                                                                 \
    static const struct functions functions_##T = {ready_##T, {panel_##T##_CACHE, panel_##T##_MEMORY}};
FORMAT(Q4_0) FORMAT(Q4_1) FORMAT(Q8_0) FORMAT(Q4_K) FORMAT(Q6_K)

static struct functions functions_for(int type) {
    switch (type) {
        case Q4_0: return functions_Q4_0;
        case Q4_1: return functions_Q4_1;
        case Q4_K: return functions_Q4_K;
        case Q6_K: return functions_Q6_K;
        default: return functions_Q8_0;
    }
}

/* Panels of a turn: four turns for each thread at least, or one may wait long for the last. */
static int64_t turn_of(int64_t panels, int64_t size, int threads) {
    const int64_t large = TURN / size, most = panels / (4 * threads), each = large < most ? large : most;
    return each < 1 ? 1 : each;
}

bool interleaved_product(const struct call *call, const struct interleaved *w, struct tensor *result) {
    const struct tensor *b = result->sources[1];
    const int64_t k = w->blocks, blocks = k * b->sizes[1], size = k * bytes_of_group(w->type), panels = w->rows / GROUP_ROWS;
    const size_t room = ready_room(w->type, b->sizes[0] * b->sizes[1]);
    if (b->type != F32 || b->strides[0] != 4 || b->sizes[2] != 1 || b->sizes[3] != 1) return false;
    /* Fixed shares, or turns where a thread may lose its core for a while (the HTTP process needs one, too), or where
     * cores differ. */
    const bool turns = call->threads > 1 && panels * size >= LARGE, alone = !turns && b->sizes[0] * b->sizes[1] <= ALONE;
    if (call->work_size < room * (size_t)(alone ? call->threads : 1)) return false;
    const struct functions format = functions_for(w->type);
    const int64_t own = panels * call->thread / call->threads, end = panels * (call->thread + 1) / call->threads;
    for (int line = 0; line < FIRST; line += 64) _mm_prefetch((const char *)w->data + own * size + line, _MM_HINT_T0);
    uint8_t *work = (uint8_t *)call->work + (alone ? (size_t)call->thread * room : 0);
    uint8_t *ready = (uint8_t *)(((uintptr_t)work + 63) & ~(uintptr_t)63);
    const int64_t first = alone ? 0 : blocks * call->thread / call->threads;
    format.ready(b, k, ready, first, alone ? blocks : blocks * (call->thread + 1) / call->threads);
    /* Maxima are of rows that one thread computes. */
    const bool keeping = (turns || call->threads == 1) && makes_logits(result);
    if (keeping && call->thread == 0) keep_from_here(b->sizes[1], w->rows);
    if (turns && call->thread == 0) theirs.pool_set(call->pool, call->threads);
    if (!alone) ggml_barrier(call->pool);
    const bool kept = keeping && keeps(b->sizes[1], w->rows);
    const int64_t ldc = (int64_t)result->strides[1] / 4, each = kept ? KEPT_TURN : turn_of(panels, size, call->threads);
    const panel_function panel = format.panel[copies_are_cached() ? CACHE : MEMORY];
    int64_t from = turns ? call->thread * each : own, till = turns ? from + each : end;
    while (from < panels) {
        for (int64_t p = from; p < till && p < panels; p++) {
            float *c = (float *)result->data + p * GROUP_ROWS;
            panel(k, w->data + p * size, ready, b->sizes[1], c, ldc);
            if (kept) keep(c, ldc, b->sizes[1], p * GROUP_ROWS);
        }
        if (!turns) break;
        from = theirs.pool_add(call->pool, 1) * each;
        till = from + each;
    }
    return true;
}
