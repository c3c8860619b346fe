/* Products of repacked weights with many tokens, those of a prompt, in AMX tiles of bf16 (panels_amx.c).
 *
 * The products are the least part of the time (16 ms of the 110 of a prompt of 512 tokens), so the memory layout
 * decides:
 *
 *   activations  converted by all threads together
 *   unit         a work chunk: up to 8 panels, by a part of the activations that stays in the second-level cache (6.9
 *                ms instead of 12.9 for 2048 rows of 8192 numbers by 512 tokens).
 *   prefetching  of the next unit's weights (12.5 ms instead of 14 for a prompt of 32 tokens).
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "products/prefill_amx.h"
#include "products/panels_amx.h"
#include "simd.h"

#if HAS_AMX
#define MAX_PANELS 8 /* of a unit */

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
static void pack_activations(const struct ggml_tensor *activations, int64_t n_groups, int64_t begin, int64_t end,
                             uint8_t *tiles) {
    for (int64_t token = begin * TILE_SIDE; token < end * TILE_SIDE; token++) {
        const char *x = (const char *)activations->data + token * (int64_t)activations->nb[1];
        pack_token(token < activations->ne[1] ? (const float *)x : 0, token, n_groups, activations->ne[0] / 32, tiles);
    }
}

/* How a product is cut into units: panels of rows by cuts of the tokens. */
struct units {
    int64_t n_panels, panels, n_units, n_cuts; /* panels: of a unit; n_units: in each cut */
};

/* Units are as large as four for each thread allow. Where panels are too few for that, the tokens are cut. */
static struct units units_of(int64_t n_rows, int64_t n_groups, int64_t n_threads) {
    struct units u = {.n_panels = (n_rows + TILE_PANEL - 1) / TILE_PANEL};
    u.panels = u.n_panels / (4 * n_threads);
    u.panels = u.panels < 1 ? 1 : u.panels > MAX_PANELS ? MAX_PANELS : u.panels;
    u.n_cuts = 4 * n_threads / u.n_panels;
    u.n_cuts = u.n_cuts > n_groups / 4 ? n_groups / 4 : u.n_cuts;
    u.n_cuts = u.n_cuts < 1 ? 1 : u.n_cuts;
    u.n_units = (u.n_panels + u.panels - 1) / u.panels;
    return u;
}

/* A product, and where its results and its sums go. */
struct prompt {
    struct tile_product product;
    float *result, *sums; /* sums: this thread's, of a unit's panels by all tokens */
    int64_t out_stride;   /* floats from a token's results to the next token's */
};

/* Work chunks of this thread until none is left. */
static void multiply_units(const struct ggml_compute_params *params, const struct prompt *p, struct units u) {
    const struct repacked *weights = p->product.weights;
    const int64_t panel_bytes = 2 * weights->n_blocks * group_bytes(weights->format);
    const int64_t pairs = (p->product.n_groups + 1) / 2, n_parts = p->product.n_parts;
    for (int64_t chunk = params->ith; chunk < u.n_units * u.n_cuts;) {
        const int64_t first = chunk % u.n_units * u.panels, cut = chunk / u.n_units;
        const int64_t begin = pairs * cut / u.n_cuts * TILE_PANEL;
        const int64_t end = pairs * (cut + 1) / u.n_cuts * TILE_PANEL;
        chunk = upstream.ggml_threadpool_chunk_add(params->threadpool, 1);
        const uint8_t *next = weights->data + chunk % u.n_units * u.panels * panel_bytes;
        for (int64_t part = 0; part < n_parts; part++)
            for (int64_t i = 0; i < u.panels && first + i < u.n_panels; i++, next += panel_bytes / n_parts) {
                const int64_t row = (first + i) * TILE_PANEL, left = weights->n_rows - row;
                prefetch_l2(next, panel_bytes / n_parts);
                multiply_tile_panel(&p->product, row, left < TILE_PANEL ? left : TILE_PANEL, part, begin, end,
                                    p->result + begin * p->out_stride + row, p->out_stride,
                                    p->sums + i * pairs * 4 * TILE_SUMS);
            }
    }
}

bool prompt_product(const struct ggml_compute_params *params, const struct repacked *weights,
                    const struct ggml_tensor *activations, struct ggml_tensor *result) {
    const int64_t n_tokens = activations->ne[1], n_blocks = activations->ne[0] / 32, n_threads = params->nth;
    if (n_tokens < MIN_PROMPT_TOKENS || !is_f32_matrix(activations) || params->wsize < sizeof(void *)) return false;
    if (!upstream.ggml_threadpool_chunk_set || !upstream.ggml_threadpool_chunk_add || !can_share_work(params))
        return false;
    if (!tailrace_kernels_amx_usable()) return false;
    const int64_t n_groups = n_token_groups(n_tokens), n_parts = n_row_parts(n_blocks);
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
    pack_activations(activations, n_groups, n_groups * params->ith / n_threads,
                     n_groups * (params->ith + 1) / n_threads, memory);
    if (n_threads > 1) ggml_barrier(params->threadpool);
    const struct prompt p = {.product = {.weights = weights,
                                         .activations = memory,
                                         .memory = thread_tile_memory(),
                                         .n_tokens = n_tokens,
                                         .n_groups = n_groups,
                                         .n_blocks = n_blocks,
                                         .n_parts = n_parts},
                             .result = result->data,
                             .sums = (float *)(memory + act_bytes + params->ith * sum_bytes),
                             .out_stride = (int64_t)(result->nb[1] / sizeof(float))};
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
