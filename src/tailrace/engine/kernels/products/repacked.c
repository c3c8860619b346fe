/* Products with repacked weights: activations are quantised here, then panels of 16 rows are multiplied with all
 * tokens.
 *
 * Each lane holds one row, so no sum goes across lanes, and eight tokens share the cost of unpacking: 13 instructions
 * for a token by 32 weights of 16 rows. */
#include "products/repacked.h"
#include "loading/repack.h"
#include "products/repacked_avx512.h"
#include "products/row_maxima.h"
#include "products/work_chunks.h"

#define PREFETCH_FIRST  4096                       /* bytes of a thread's weights, before activations are quantised */
#define MAXIMA_PANELS   (MAXIMA_ROWS / GROUP_ROWS) /* of a work chunk whose row maxima are recorded */
#define MAX_CHUNK_BYTES (1 << 20)                  /* of any other: 80 ms a step of 2.4 GB, with 147 KB 84 */
/* Up to this many numbers, each thread quantises all activations for itself. It takes less time than waiting for the
 * others. */
#define MAX_PRIVATE_NUMBERS 2048

INLINE int64_t act_bytes(enum format format) {
    return is_super_block(format) ? super_act_bytes(format) : BLOCK_ACT_BYTES;
}

/* Memory for quantised activations, with 64 bytes to align them. */
INLINE size_t act_memory(enum format format, int64_t numbers) {
    return (size_t)(numbers / traits_of(format).weights * act_bytes(format) + 64);
}

size_t repacked_work_bytes(int n_threads, const struct ggml_tensor *result) {
    const struct ggml_tensor *activations = result->src[1];
    enum format format;
    if (activations->type != GGML_TYPE_F32 || !find_format(result->src[0]->type, &format) ||
        !traits_of(format).repacked)
        return 0;
    const int64_t numbers = activations->ne[0] * activations->ne[1];
    return act_memory(format, numbers) * (size_t)(numbers <= MAX_PRIVATE_NUMBERS ? n_threads : 1);
}

/* ---- Activations ------------------------------------------------------------------------------------------------- */

/* Quantise blocks `begin` to `end` of the activations, which are numbered token by token. */
INLINE void quantise_range(enum format format, const struct ggml_tensor *activations, int64_t n_blocks, uint8_t *to,
                           int64_t begin, int64_t end) {
    const int64_t n_tokens = activations->ne[1];
    while (begin < end) {
        const int64_t j = begin / n_blocks, first = j / TILE_TOKENS * TILE_TOKENS;
        const int64_t till = end < (j + 1) * n_blocks ? end : (j + 1) * n_blocks;
        const int tile_tokens = n_tokens - first < TILE_TOKENS ? (int)(n_tokens - first) : TILE_TOKENS;
        const float *x = (const float *)((const char *)activations->data + j * (int64_t)activations->nb[1]);
        uint8_t *tile = to + first * n_blocks * act_bytes(format);
        for (int64_t i = begin - j * n_blocks; i < till - j * n_blocks; i++) {
            uint8_t *block = tile + i * tile_tokens * act_bytes(format);
            if (is_super_block(format)) quantise_super_block(format, x + 256 * i, block, tile_tokens, (int)(j - first));
            else quantise_block(format, x + 32 * i, block, tile_tokens, (int)(j - first));
        }
        begin = till;
    }
}

/* ---- Panels ------------------------------------------------------------------------------------------------------ */

INLINE void compute_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                         const uint8_t *panel, const uint8_t *activations, float *out, int64_t out_stride) {
    if (is_super_block(format))
        repacked_super_tile(format, from, n_tokens, n_blocks, panel, activations, out, out_stride);
    else repacked_block_tile(format, from, n_tokens, n_blocks, panel, activations, out, out_stride);
}

/* A panel (16 rows) by all tokens. The panel stays in the first-level cache meanwhile. */
INLINE void compute_panel(enum format format, enum weights_from from, int64_t n_blocks, const uint8_t *panel,
                          const uint8_t *activations, int64_t n_tokens, float *out, int64_t out_stride) {
    for (; n_tokens > 0; n_tokens -= TILE_TOKENS, activations += TILE_TOKENS * n_blocks * act_bytes(format),
                         out += TILE_TOKENS * out_stride) {
        /* The number of tokens is a constant for the compiler, so that sums stay in registers. */
#define TILE(N)                                                                                                        \
    case N: compute_tile(format, from, N, n_blocks, panel, activations, out, out_stride); break;
        switch (n_tokens) {
            TILE(1)
            TILE(2)
            TILE(3)
            TILE(4)
            TILE(5)
            TILE(6)
            TILE(7)
            default: compute_tile(format, from, 8, n_blocks, panel, activations, out, out_stride);
        }
#undef TILE
    }
}

typedef void panel_function(int64_t n_blocks, const uint8_t *panel, const uint8_t *activations, int64_t n_tokens,
                            float *out, int64_t out_stride);

/* The functions of one format. */
struct kernels {
    void (*quantise)(const struct ggml_tensor *activations, int64_t n_blocks, uint8_t *to, int64_t begin, int64_t end);
    panel_function *panel[2]; /* by enum weights_from */
};

#define PANEL_FUNCTION(name, from)                                                                                     \
    static void panel_##name##_##from(int64_t n_blocks, const uint8_t *panel, const uint8_t *activations,              \
                                      int64_t n_tokens, float *out, int64_t out_stride) {                              \
        compute_panel(name, from, n_blocks, panel, activations, n_tokens, out, out_stride);                            \
    }
#define KERNELS(name)                                                                                                  \
    static void quantise_##name(const struct ggml_tensor *activations, int64_t n_blocks, uint8_t *to, int64_t begin,   \
                                int64_t end) {                                                                         \
        quantise_range(name, activations, n_blocks, to, begin, end);                                                   \
    }                                                                                                                  \
    PANEL_FUNCTION(name, CACHE)                                                                                        \
    PANEL_FUNCTION(name, MEMORY)                                                                                       \
    static const struct kernels kernels_##name = {quantise_##name, {panel_##name##_CACHE, panel_##name##_MEMORY}};
#define KERNELS_IF(name, block, weights, per_scale, encoding, quants, min, zero, activations, repacked)                \
    IF_##repacked(KERNELS(name))
FORMATS(KERNELS_IF)

static const struct kernels *kernels_of(enum format format) {
    switch (format) {
#define KERNELS_YES(name) return &kernels_##name;
#define KERNELS_NO(name)  break;
#define KERNELS_OF(name, block, weights, per_scale, encoding, quants, min, zero, activations, repacked)                \
    case name: KERNELS_##repacked(name)
        FORMATS(KERNELS_OF)
    }
    __builtin_unreachable();
}

/* ---- Products ---------------------------------------------------------------------------------------------------- */

/* Panels of a work chunk. Each thread has at least four chunks, or the last one may keep the others waiting. */
static int64_t panels_of_chunk(int64_t n_panels, int64_t panel_bytes, int n_threads) {
    const int64_t large = MAX_CHUNK_BYTES / panel_bytes, max = n_panels / (4 * n_threads),
                  n = large < max ? large : max;
    return n < 1 ? 1 : n;
}

bool repacked_product(const struct ggml_compute_params *params, const struct repacked *weights,
                      struct ggml_tensor *result) {
    const struct ggml_tensor *activations = result->src[1];
    const enum format format = weights->format;
    const int64_t n_tokens = activations->ne[1], n_blocks = weights->n_blocks, n_act_blocks = n_blocks * n_tokens;
    const int64_t panel_bytes = n_blocks * group_bytes(format), n_panels = weights->n_rows / GROUP_ROWS;
    if (!is_f32_matrix(activations) || !can_share_work(params)) return false;
    const int64_t numbers = activations->ne[0] * n_tokens;
    const size_t memory = act_memory(format, numbers);
    const bool chunked = params->nth > 1 && n_panels * panel_bytes >= MIN_CHUNKED_BYTES;
    const bool private = !chunked && numbers <= MAX_PRIVATE_NUMBERS; /* each thread quantises all activations */
    if (params->wsize < memory * (size_t)(private ? params->nth : 1)) return false;

    const struct kernels *kernels = kernels_of(format);
    const int64_t share_begin = n_panels * params->ith / params->nth,
                  share_end = n_panels * (params->ith + 1) / params->nth;
    for (int line = 0; line < PREFETCH_FIRST; line += 64) prefetch_l1(weights->data + share_begin * panel_bytes + line);

    uint8_t *work = (uint8_t *)params->wdata + (private ? (size_t)params->ith * memory : 0);
    uint8_t *quantised = (uint8_t *)(((uintptr_t)work + 63) & ~(uintptr_t)63);
    const int64_t act_begin = private ? 0 : n_act_blocks * params->ith / params->nth;
    const int64_t act_end = private ? n_act_blocks : n_act_blocks * (params->ith + 1) / params->nth;
    kernels->quantise(activations, n_blocks, quantised, act_begin, act_end);

    /* Maxima are of 256 rows that one thread computes. */
    const bool wants_maxima = (chunked || params->nth == 1) && is_logits(result);
    if (wants_maxima && params->ith == 0) begin_row_maxima(n_tokens, weights->n_rows);
    if (chunked && params->ith == 0) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
    if (!private && params->nth > 1) ggml_barrier(params->threadpool);
    const bool records = wants_maxima && has_row_maxima(n_tokens, weights->n_rows);

    const int64_t out_stride = (int64_t)result->nb[1] / 4;
    const int64_t chunk_panels = records ? MAXIMA_PANELS : panels_of_chunk(n_panels, panel_bytes, params->nth);
    panel_function *panel = kernels->panel[repacked_is_cached() ? CACHE : MEMORY];
    int64_t begin = chunked ? params->ith * chunk_panels : share_begin,
            end = chunked ? begin + chunk_panels : share_end;
    while (begin < n_panels) {
        for (int64_t p = begin; p < end && p < n_panels; p++) {
            float *out = (float *)result->data + p * GROUP_ROWS;
            panel(n_blocks, weights->data + p * panel_bytes, quantised, n_tokens, out, out_stride);
            if (records) record_row_maxima(out, out_stride, n_tokens, p * GROUP_ROWS);
        }
        if (!chunked) break;
        begin = upstream.ggml_threadpool_chunk_add(params->threadpool, 1) * chunk_panels;
        end = begin + chunk_panels;
    }
    return true;
}
