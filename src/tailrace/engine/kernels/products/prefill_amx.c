/* Products of repacked weights with many tokens, those of a prompt, in AMX tiles of bf16.
 *
 * Upstream multiplies bytes in tiles, which have to be scaled every 32 numbers outside of the tiles. That takes longer
 * than the products. Here weights are converted to bf16 with their scales applied, 32 rows at a time. Activations are
 * converted to bf16, too, which is more exact than 8 bits and a scale for 32 numbers. Then a sum stays in its tile for
 * up to 640 numbers, in single precision.
 *
 * The products are the least part of the time (16 ms of the 110 of a prompt of 512 tokens), so the memory layout
 * decides:
 *
 *   panel        32 rows of weights by up to 640 numbers, which a thread converts for itself. It fits into the
 *                first-level cache, and activations bypass that cache (TILE_STREAM).
 *   activations  converted by all threads together, one tile after the other, so no stride is a power of two. Caches
 *                hold few lines at such strides.
 *   sums         of rows that are longer than a part. They are in tiles of the thread's own, for the same reason.
 *   unit         a work chunk: up to 8 panels, by a part of the activations that stays in the second-level cache (6.9
 *                ms instead of 12.9 for 2048 rows of 8192 numbers by 512 tokens).
 *   prefetching  of the result's lines while a tile is computed (15 ms of 150), and of the next unit's weights (12.5 ms
 *                instead of 14 for a prompt of 32 tokens).
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "amx.h"
#include "products/prefill_amx.h"

#if HAS_AMX
#include "products/weight_tiles_amx.h"

/* Bypass the first-level cache, which holds the panel: 4.5 ns a product of two tiles instead of 5.9. */
#define TILE_STREAM(tile, from)                                                                                        \
    __asm__ volatile("tileloaddt1\t(%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"(64L) : "memory")

#define SIDE       16         /* rows, or tokens, of a tile */
#define PANEL      (2 * SIDE) /* rows of a panel, and tokens that are computed together */
#define TILE_SUMS  (SIDE * SIDE)
#define MAX_BLOCKS 20 /* of a part */
#define MAX_PANELS 8  /* of a unit */

static _Thread_local uint8_t thread_panel[2 * MAX_BLOCKS * TILE_BYTES] __attribute__((aligned(64)));
static _Thread_local float thread_rest[4 * TILE_SUMS] __attribute__((aligned(64)));

struct prompt {
    const struct repacked *weights;
    const uint8_t *activations; /* tiles: part by part, in a part 16 tokens after 16 tokens, in those block by block */
    float *result, *sums;       /* sums: this thread's, of a unit's panels by all tokens */
    uint8_t *panel;             /* tiles of the first 16 rows, block by block, then of the others */
    float *rest;                /* for tiles that have fewer than 16 tokens */
    int64_t n_tokens, n_groups; /* groups of 16 tokens */
    int64_t out_stride;         /* floats from a token's results to the next token's */
    int64_t n_blocks, n_parts;  /* blocks of 32 numbers in a row; parts that a row is cut into */
};

/* The block that a part begins with. */
INLINE int64_t part_begin(int64_t n_blocks, int64_t n_parts, int64_t part) { return n_blocks * part / n_parts; }

/* Memory of the pool's first thread for all threads, because upstream's work memory is too small; 0 where there is
 * none. */
static uint8_t *shared_memory(size_t size) {
    static _Thread_local void *memory;
    static _Thread_local size_t capacity;
    if (size > capacity) {
        free(memory);
        capacity = 0;
        if (posix_memalign(&memory, 2 << 20, size)) return memory = 0;
        madvise(memory, size, MADV_HUGEPAGE); /* If it is refused, pages are small. */
        capacity = size;
    }
    return memory;
}

/* Convert groups `begin` to `end` of the tokens to tiles of 16 tokens by 32 numbers. Tokens that don't exist are 0. */
INLINE void pack_activations(const struct ggml_tensor *activations, int64_t n_blocks, int64_t n_parts, int64_t begin,
                             int64_t end, uint8_t *tiles) {
    const int64_t n_tokens = activations->ne[1], n_groups = (n_tokens + SIDE - 1) / SIDE;
    for (int64_t token = begin * SIDE; token < end * SIDE; token++) {
        const float *x = (const float *)((const char *)activations->data + token * activations->nb[1]);
        for (int64_t part = 0; part < n_parts; part++) {
            const int64_t first = part_begin(n_blocks, n_parts, part), till = part_begin(n_blocks, n_parts, part + 1);
            uint8_t *to = tiles + (first * n_groups + token / SIDE * (till - first)) * TILE_BYTES + token % SIDE * 64;
            for (int64_t i = first; i < till; i++, to += TILE_BYTES) {
                __m512i pair = _mm512_setzero_si512();
                if (token < n_tokens)
                    pair = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 32 * i + 16), _mm512_loadu_ps(x + 32 * i));
                _mm512_store_si512(to, pair);
            }
        }
    }
}

/* Where up to four tiles of sums go: floats from a token to the next, to the tile of the next rows, and to that of the
 * next tokens. */
struct destination {
    float *data;
    int64_t token, rows, tokens;
};

/* One or two times 16 tokens by one or two times 16 rows, added to the tiles `before` (0: to nothing). */
INLINE void multiply_tiles(int tokens, int rows, int64_t n_blocks, const uint8_t *a, const uint8_t *b,
                           const float *before, struct destination to) {
    const int64_t next = n_blocks * TILE_BYTES, stride = to.token * (int64_t)sizeof(float);
    if (before) {
        TILE_LOAD(0, before, 64);
        if (rows > 1) TILE_LOAD(1, before + TILE_SUMS, 64);
        if (tokens > 1) TILE_LOAD(2, before + 2 * TILE_SUMS, 64);
        if (tokens > 1 && rows > 1) TILE_LOAD(3, before + 3 * TILE_SUMS, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < n_blocks; i++, a += TILE_BYTES, b += TILE_BYTES) {
        TILE_STREAM(4, a);
        TILE_LOAD(6, b, 64);
        if (i < SIDE)
            for (int c = 0; c < tokens; c++)
                for (int r = 0; r < rows; r++)
                    __builtin_prefetch(to.data + c * to.tokens + i * to.token + r * to.rows, 1);
        if (rows > 1) TILE_LOAD(7, b + next, 64);
        if (tokens > 1) TILE_STREAM(5, a + next);
        _tile_dpbf16ps(0, 4, 6);
        if (rows > 1) _tile_dpbf16ps(1, 4, 7);
        if (tokens > 1) _tile_dpbf16ps(2, 5, 6);
        if (tokens > 1 && rows > 1) _tile_dpbf16ps(3, 5, 7);
    }
    TILE_STORE(0, to.data, stride);
    if (rows > 1) TILE_STORE(1, to.data + to.rows, stride);
    if (tokens > 1) TILE_STORE(2, to.data + to.tokens, stride);
    if (tokens > 1 && rows > 1) TILE_STORE(3, to.data + to.tokens + to.rows, stride);
}

/* A panel, whose first row is `row`, by a part of the tokens `begin` to `end`. */
static void multiply_panel(const struct prompt *p, int64_t row, int64_t part, int64_t begin, int64_t end, float *sums) {
    const int64_t first = part_begin(p->n_blocks, p->n_parts, part);
    const int64_t n_blocks = part_begin(p->n_blocks, p->n_parts, part + 1) - first;
    const int rows = p->weights->n_rows - row > SIDE ? 2 : 1;
    unpack_rows(p->weights, row, rows, first, n_blocks, p->panel);
    for (int64_t j = begin; j < end; j += PANEL, sums += 4 * TILE_SUMS) {
        const int64_t left = p->n_tokens - j;
        const uint8_t *a = p->activations + (first * p->n_groups + j / SIDE * n_blocks) * TILE_BYTES;
        const int tokens = left > SIDE ? 2 : 1;
        const bool last = part + 1 == p->n_parts, fits = left >= tokens * SIDE;
        float *out = p->result + j * p->out_stride + row;
        const struct destination to = !last  ? (struct destination){sums, SIDE, TILE_SUMS, 2 * TILE_SUMS}
                                      : fits ? (struct destination){out, p->out_stride, SIDE, SIDE * p->out_stride}
                                             : (struct destination) {
            p->rest, PANEL
            , SIDE, SIDE *PANEL
        };
        const float *before = part ? sums : 0;
        if (tokens == 2 && rows == 2) multiply_tiles(2, 2, n_blocks, a, p->panel, before, to);
        else if (tokens == 2) multiply_tiles(2, 1, n_blocks, a, p->panel, before, to);
        else if (rows == 2) multiply_tiles(1, 2, n_blocks, a, p->panel, before, to);
        else multiply_tiles(1, 1, n_blocks, a, p->panel, before, to);
        if (last && !fits)
            for (int64_t i = 0; i < left; i++)
                memcpy(out + i * p->out_stride, p->rest + i * PANEL, (size_t)rows * SIDE * sizeof(float));
    }
}

/* How a product is cut into units: panels of rows by cuts of the tokens. */
struct units {
    int64_t n_panels, panels, n_units, n_cuts; /* panels: of a unit; n_units: in each cut */
};

/* Units are as large as four for each thread allow. Where panels are too few for that, the tokens are cut. */
static struct units units_of(int64_t n_rows, int64_t n_groups, int64_t n_threads) {
    struct units u = {.n_panels = (n_rows + PANEL - 1) / PANEL };
    u.panels = u.n_panels / (4 * n_threads);
    u.panels = u.panels < 1 ? 1 : u.panels > MAX_PANELS ? MAX_PANELS : u.panels;
    u.n_cuts = 4 * n_threads / u.n_panels;
    u.n_cuts = u.n_cuts > n_groups / 4 ? n_groups / 4 : u.n_cuts;
    u.n_cuts = u.n_cuts < 1 ? 1 : u.n_cuts;
    u.n_units = (u.n_panels + u.panels - 1) / u.panels;
    return u;
}

/* Work chunks of this thread until none is left. */
static void multiply_units(const struct ggml_compute_params *params, const struct prompt *p, struct units u) {
    const int64_t panel_bytes = 2 * p->weights->n_blocks * group_bytes(p->weights->format);
    const int64_t pairs = (p->n_groups + 1) / 2;
    for (int64_t chunk = params->ith; chunk < u.n_units * u.n_cuts;) {
        const int64_t cut = chunk / u.n_units, unit = chunk % u.n_units;
        const int64_t begin = pairs * cut / u.n_cuts * PANEL
        , end = pairs * (cut + 1) / u.n_cuts * PANEL;
        chunk = upstream.ggml_threadpool_chunk_add(params->threadpool, 1);
        const uint8_t *next = p->weights->data + chunk % u.n_units * u.panels * panel_bytes;
        for (int64_t part = 0; part < p->n_parts; part++)
            for (int64_t i = 0; i < u.panels && unit * u.panels + i < u.n_panels;
                 i++, next += panel_bytes / p->n_parts) {
                prefetch_l2(next, panel_bytes / p->n_parts);
                multiply_panel(p, (unit * u.panels + i) * PANEL, part, begin, end, p->sums + i * pairs * 4 * TILE_SUMS);
            }
    }
}

bool prompt_product(const struct ggml_compute_params *params, const struct repacked *weights,
                    const struct ggml_tensor *activations, struct ggml_tensor *result) {
    const int64_t n_tokens = activations->ne[1], n_blocks = activations->ne[0] / 32, n_threads = params->nth;
    if (n_tokens < MIN_PROMPT_TOKENS || !is_f32_matrix(activations) || params->wsize < sizeof(void *)) return false;
    if (!upstream.ggml_threadpool_chunk_set || !upstream.ggml_threadpool_chunk_add || !can_share_work(params))
        return false;
    if (!tailrace_kernels_amx_usable() || weights->n_rows % GROUP_ROWS) return false;
    const int64_t n_groups = (n_tokens + SIDE - 1) / SIDE, n_parts = (n_blocks + MAX_BLOCKS - 1) / MAX_BLOCKS;
    const struct units u = units_of(weights->n_rows, n_groups, n_threads);
    const int64_t act_bytes = n_groups * n_blocks * TILE_BYTES;
    const int64_t sum_bytes = n_parts > 1 ? u.panels * ((n_groups + 1) / 2) * 4 * TILE_BYTES : 0; /* of a thread */
    uint8_t **shared = params->wdata;
    if (params->ith == 0) {
        *shared = shared_memory((size_t)(act_bytes + n_threads * sum_bytes));
        upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    if (n_threads > 1) ggml_barrier(params->threadpool);
    uint8_t *memory = *shared;
    if (!memory) return false;
    const int64_t unit_bytes = u.panels * 2 * weights->n_blocks * group_bytes(weights->format);
    prefetch_l2(weights->data + params->ith % u.n_units * unit_bytes, unit_bytes);
    pack_activations(activations, n_blocks, n_parts, n_groups * params->ith / n_threads,
                     n_groups * (params->ith + 1) / n_threads, memory);
    if (n_threads > 1) ggml_barrier(params->threadpool);
    const struct prompt p = {.weights = weights,
                             .activations = memory,
                             .result = result->data,
                             .sums = (float *)(memory + act_bytes + params->ith * sum_bytes),
                             .panel = thread_panel,
                             .rest = thread_rest,
                             .n_tokens = n_tokens,
                             .n_groups = n_groups,
                             .out_stride = (int64_t)(result->nb[1] / sizeof(float)),
                             .n_blocks = n_blocks,
                             .n_parts = n_parts};
    const struct tile_config before = tiles_begin();
    multiply_units(params, &p, u);
    tiles_end(before);
    return true;
}
#else
bool prompt_product(const struct ggml_compute_params *params, const struct repacked *weights,
                    const struct ggml_tensor *activations, struct ggml_tensor *result) {
    (void)params, (void)weights, (void)activations, (void)result;
    return false;
}
#endif
