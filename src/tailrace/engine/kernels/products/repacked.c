/* Products with repacked weights: activations are quantised here, then panels of 16 rows are multiplied with all
 * tokens.
 *
 * Each lane holds one row, so no sum goes across lanes, and eight tokens share the cost of unpacking: 13 instructions
 * for a token by 32 weights of 16 rows. */
#include "products/repacked.h"
#include "loading/repack.h"
#include "products/panels.h"
#include "products/row_maxima.h"
#include "products/work_chunks.h"

#define PREFETCH_FIRST  4096                       /* bytes of a thread's first weights, and of its next work chunk */
#define MAXIMA_PANELS   (MAXIMA_ROWS / GROUP_ROWS) /* of a work chunk whose row maxima are recorded */
#define MAX_CHUNK_BYTES (1 << 20)                  /* of any other: 80 ms a step of 2.4 GB, with 147 KB 84 */
/* Up to this many numbers, each thread quantises all activations for itself. It takes less time than waiting for the
 * others. */
#define MAX_PRIVATE_NUMBERS 2048

/* Memory for quantised activations, with 64 bytes to align them. */
static size_t act_memory(enum format format, int64_t numbers) {
    return (size_t)(numbers / traits_of(format).weights * act_block_bytes(format) + 64);
}

size_t repacked_work_bytes(int n_threads, const struct ggml_tensor *result) {
    const struct ggml_tensor *activations = result->src[1];
    enum format format;
    if (activations->type != GGML_TYPE_F32 || !find_format(result->src[0]->type, &format)) return 0;
    const int64_t *ne = activations->ne, numbers = ne[0] * ne[1] * ne[2] * ne[3];
    return act_memory(format, numbers) * (size_t)(numbers <= MAX_PRIVATE_NUMBERS ? n_threads : 1);
}

/* ---- Activations ------------------------------------------------------------------------------------------------- */

/* Quantise blocks `begin` to `end` of the activations, which are numbered token by token. */
static void quantise_range(enum format format, const struct ggml_tensor *activations, int64_t n_blocks, uint8_t *to,
                           int64_t begin, int64_t end) {
    const struct panel_functions *functions = panel_functions_of(format);
    const int64_t n_tokens = activations->ne[1], bytes = act_block_bytes(format);
    while (begin < end) {
        const int64_t j = begin / n_blocks, first = j / TILE_TOKENS * TILE_TOKENS;
        const int64_t till = end < (j + 1) * n_blocks ? end : (j + 1) * n_blocks;
        const int tile_tokens = n_tokens - first < TILE_TOKENS ? (int)(n_tokens - first) : TILE_TOKENS;
        const float *x = (const float *)((const char *)activations->data + j * (int64_t)activations->nb[1]);
        functions->quantise(x, begin - j * n_blocks, till - j * n_blocks, to + first * n_blocks * bytes, tile_tokens,
                            (int)(j - first));
        begin = till;
    }
}

/* ---- Products ---------------------------------------------------------------------------------------------------- */

/* Panels of a work chunk. Each thread has at least four chunks, or the last one may keep the others waiting. */
static int64_t panels_of_chunk(int64_t n_panels, int64_t panel_bytes, int n_threads) {
    const int64_t large = MAX_CHUNK_BYTES / panel_bytes, max = n_panels / (4 * n_threads),
                  n = large < max ? large : max;
    return n < 1 ? 1 : n;
}

/* The panel of the last `n_rows` rows, which are fewer than 16: behind them is the next token's result. */
static void last_rows(panel_function *panel, int64_t n_blocks, const uint8_t *weights, const uint8_t *quantised,
                      int64_t act_bytes, int64_t n_tokens, float *out, int64_t out_stride, int64_t n_rows) {
    float found[TILE_TOKENS * GROUP_ROWS];
    for (int64_t first = 0; first < n_tokens; first += TILE_TOKENS) {
        const int64_t count = n_tokens - first < TILE_TOKENS ? n_tokens - first : TILE_TOKENS;
        panel(n_blocks, weights, quantised + first * n_blocks * act_bytes, count, found, GROUP_ROWS);
        for (int64_t j = 0; j < count; j++)
            memcpy(out + (first + j) * out_stride, found + j * GROUP_ROWS, (size_t)n_rows * sizeof *found);
    }
}

bool repacked_product(const struct ggml_compute_params *params, const struct repacked *weights,
                      struct ggml_tensor *result) {
    const struct ggml_tensor *activations = result->src[1];
    const enum format format = weights->format;
    const int64_t n_tokens = activations->ne[1], n_blocks = weights->n_blocks, n_act_blocks = n_blocks * n_tokens;
    const int64_t panel_bytes = n_blocks * group_bytes(format), n_panels = n_panels_of(weights);
    if (!is_f32_matrix(activations) || !can_share_work(params)) return false;
    const int64_t numbers = activations->ne[0] * n_tokens;
    const size_t memory = act_memory(format, numbers);
    const bool chunked = params->nth > 1 && n_panels * panel_bytes >= MIN_CHUNKED_BYTES;
    const bool private = !chunked && numbers <= MAX_PRIVATE_NUMBERS; /* each thread quantises all activations */
    if (params->wsize < memory * (size_t)(private ? params->nth : 1)) return false;

    const int64_t share_begin = n_panels * params->ith / params->nth,
                  share_end = n_panels * (params->ith + 1) / params->nth;
    for (int line = 0; line < PREFETCH_FIRST; line += 64) prefetch_l1(weights->data + share_begin * panel_bytes + line);

    uint8_t *work = (uint8_t *)params->wdata + (private ? (size_t)params->ith * memory : 0);
    uint8_t *quantised = (uint8_t *)(((uintptr_t)work + 63) & ~(uintptr_t)63);
    const int64_t act_begin = private ? 0 : n_act_blocks * params->ith / params->nth;
    const int64_t act_end = private ? n_act_blocks : n_act_blocks * (params->ith + 1) / params->nth;
    quantise_range(format, activations, n_blocks, quantised, act_begin, act_end);

    /* Maxima are of 256 rows that one thread computes. */
    const bool wants_maxima = (chunked || params->nth == 1) && is_logits(result) && weights->n_rows % GROUP_ROWS == 0;
    if (wants_maxima && params->ith == 0) begin_row_maxima(n_tokens, weights->n_rows);
    if (chunked && params->ith == 0) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
    if (!private && params->nth > 1) ggml_barrier(params->threadpool);
    const bool records = wants_maxima && has_row_maxima(n_tokens, weights->n_rows);

    const int64_t out_stride = (int64_t)result->nb[1] / 4;
    const int64_t chunk_panels = records ? MAXIMA_PANELS : panels_of_chunk(n_panels, panel_bytes, params->nth);
    panel_function *panel = panel_functions_of(format)->panel[repacked_come_from(format, n_tokens)];
    int64_t begin = chunked ? params->ith * chunk_panels : share_begin,
            end = chunked ? begin + chunk_panels : share_end;
    while (begin < n_panels) {
        /* Where threads are equally fast, this one takes the chunk behind those of all others. */
        const int64_t last = (end < n_panels ? end : n_panels) - 1, next = begin + params->nth * chunk_panels;
        for (int64_t p = begin; p <= last; p++) {
            if (p == last && chunked && next < n_panels)
                prefetch_l2(weights->data + next * panel_bytes, PREFETCH_FIRST);
            float *out = (float *)result->data + p * GROUP_ROWS;
            const uint8_t *data = weights->data + p * panel_bytes;
            const int64_t left = weights->n_rows - p * GROUP_ROWS;
            if (left < GROUP_ROWS) {
                last_rows(panel, n_blocks, data, quantised, act_block_bytes(format), n_tokens, out, out_stride, left);
                continue;
            }
            panel(n_blocks, data, quantised, n_tokens, out, out_stride);
            if (records) record_row_maxima(out, out_stride, n_tokens, p * GROUP_ROWS);
        }
        if (!chunked) break;
        begin = upstream.ggml_threadpool_chunk_add(params->threadpool, 1) * chunk_panels;
        end = begin + chunk_panels;
    }
    return true;
}
