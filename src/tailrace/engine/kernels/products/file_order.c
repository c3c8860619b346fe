/* llamafile_sgemm: products of quantised weights, as the file has them, and activations that upstream has quantised.
 *
 * Upstream offers each matrix product that it has no other kernel for to this function, and computes it row by row when
 * the answer is false. The arithmetic is upstream's: products of integers, exact within a block, times the blocks'
 * scales in single precision. It is faster than one dot product at a time because a block of weights is unpacked once
 * for up to four tokens, one instruction multiplies 64 bytes, and weights are prefetched: 2.4 times at one stream of
 * SmolLM2-135M in Q4_1.
 *
 * file_order_tiles.h computes tiles of a product. */
#include <stdlib.h>

#include "products/file_order.h"
#if HAS_FILE_ORDER
#include "products/file_order_tiles.h"
#include "products/nan_check.h"
#include "products/product_counts.h"
#include "products/work_chunks.h"

#define MAX_PREPARED_TOKENS 64 /* whose activation scales are prepared at a time */
#define CHUNK_ROWS          64
#define SCALES_CAPACITY     32768
static _Thread_local float act_scales[SCALES_CAPACITY] __attribute__((aligned(64)));

/* ---- Activation scales ------------------------------------------------------------------------------------------- */

/* For each activation block: its scale, and its sum times the scale (Q8_1) or times the zero point (the bits of an
 * integer). */
static void prepare_block_scales(enum format format, int64_t n_tokens, int64_t n_blocks, const uint8_t *activations,
                                 int64_t token_bytes) {
    const struct format_traits t = traits_of(format);
    for (int64_t j = 0; j < n_tokens; j++)
        for (int64_t i = 0; i < n_blocks; i++) {
            const uint8_t *block = activations + j * token_bytes + i * t.activation_bytes;
            float *scale = act_scales + (j * n_blocks + i) * BLOCK_SCALES;
            scale[0] = load_f16(block);
            if (t.has_min) {
                scale[1] = load_f16(block + offsetof(block_q8_1, s));
                continue;
            }
            int32_t sums[2];
            sums_of_bytes(_mm256_loadu_si256((const __m256i *)(block + offsetof(block_q8_0, qs))), sums);
            const int32_t correction = -t.zero_point * (sums[0] + sums[1]);
            memcpy(scale + 1, &correction, 4);
        }
}

/* For each activation super-block: its scale, and its sums times the scale and the sign or zero point that they count
 * with. */
static void prepare_super_scales(enum format format, int64_t n_tokens, int64_t n_blocks, const uint8_t *activations,
                                 int64_t token_bytes) {
    const struct format_traits t = traits_of(format);
    for (int64_t j = 0; j < n_tokens; j++)
        for (int64_t i = 0; i < n_blocks; i++) {
            const uint8_t *block = activations + j * token_bytes + i * (int64_t)sizeof(block_q8_K);
            float *scale = act_scales + (j * n_blocks + i) * SUPER_SCALES;
            memcpy(scale, block, 4);
            const __m256i sums = _mm256_loadu_si256((const __m256i *)(block + offsetof(block_q8_K, bsums)));
            const bool paired = t.weights_per_scale == 32; /* 8 sums of 32 numbers, else 16 of 16 */
            const __m256i first = paired ? _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
                                         : _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums));
            const __m256i second =
                paired ? _mm256_setzero_si256() : _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums, 1));
            const __m256 times = _mm256_set1_ps(t.has_min ? -scale[0] : -(float)t.zero_point * scale[0]);
            _mm256_storeu_ps(scale + 1, _mm256_mul_ps(_mm256_cvtepi32_ps(first), times));
            _mm256_storeu_ps(scale + 9, _mm256_mul_ps(_mm256_cvtepi32_ps(second), times));
        }
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

struct product {
    int64_t n_blocks;               /* of a row, and of a token's activations */
    int64_t row_bytes, token_bytes; /* from a row, from a token's activations, to the next */
    int64_t out_stride;             /* floats from a token's results to the next token's */
    const uint8_t *weights, *activations;
    float *out;
};

/* The number of tokens is a constant for the compiler, so that sums stay in registers. */
#define WITH_TOKENS(n, tile)                                                                                           \
    switch (n) {                                                                                                       \
        case 1: tile(1); break;                                                                                        \
        case 2: tile(2); break;                                                                                        \
        case 3: tile(3); break;                                                                                        \
        default: tile(4); break;                                                                                       \
    }

/* Rows `begin` to `end` by the tokens whose scales are prepared. */
INLINE void compute_rows(enum format format, const struct product *p, int64_t n_tokens, const uint8_t *activations,
                         float *out, int64_t begin, int64_t end) {
    const int step = is_super_block(format) ? 1 : 4;
    for (int64_t r = begin; r < end; r += step)
        for (int64_t j = 0; j < n_tokens; j += MAX_TILE_TOKENS) {
            const int64_t left = n_tokens - j;
            const uint8_t *row = p->weights + r * p->row_bytes, *token = activations + j * p->token_bytes;
            float *result = out + j * p->out_stride + r;
            if (is_super_block(format)) {
                const float *scales = act_scales + j * p->n_blocks * SUPER_SCALES;
#define SUPER(N) super_tile(format, N, p->n_blocks, row, token, p->token_bytes, scales, result, p->out_stride)
                WITH_TOKENS(left, SUPER)
            } else {
                const float *scales = act_scales + j * p->n_blocks * BLOCK_SCALES;
                const int n_rows = end - r < 4 ? (int)(end - r) : 4;
#define BLOCKS(N)                                                                                                      \
    block_tile(format, N, p->n_blocks, row, p->row_bytes, token, p->token_bytes, scales, result, p->out_stride, n_rows)
                WITH_TOKENS(left, BLOCKS)
            }
        }
}

typedef void rows_function(const struct product *, int64_t n_tokens, const uint8_t *activations, float *out,
                           int64_t begin, int64_t end);

#define ROWS(name, ...)                                                                                                \
    OUT_OF_LINE void rows_##name(const struct product *p, int64_t n_tokens, const uint8_t *activations, float *out,    \
                                 int64_t begin, int64_t end) {                                                         \
        compute_rows(name, p, n_tokens, activations, out, begin, end);                                                 \
    }
FORMATS(ROWS)

static rows_function *rows_function_of(enum format format) {
#define ROWS_OF(name, ...)                                                                                             \
    case name: return rows_##name;
    switch (format) { FORMATS(ROWS_OF) }
    __builtin_unreachable();
}

/* ---- Products ---------------------------------------------------------------------------------------------------- */

/* Floats of a prepared activation block. */
static int64_t scales_of_block(enum format format) { return is_super_block(format) ? SUPER_SCALES : BLOCK_SCALES; }

/* Tokens whose scales are prepared at a time. */
static int64_t max_prepared_tokens(enum format format, int64_t n_blocks) {
    const int64_t fit = SCALES_CAPACITY / (n_blocks * scales_of_block(format)) / MAX_TILE_TOKENS * MAX_TILE_TOKENS;
    return fit < MAX_PREPARED_TOKENS ? fit : MAX_PREPARED_TOKENS;
}

static void prepare_scales(enum format format, int64_t n_tokens, int64_t n_blocks, const uint8_t *activations,
                           int64_t token_bytes) {
    if (is_super_block(format)) prepare_super_scales(format, n_tokens, n_blocks, activations, token_bytes);
    else prepare_block_scales(format, n_tokens, n_blocks, activations, token_bytes);
}

bool fits_file_order(enum format format, int64_t n_blocks) {
    return !has_floats(format) && MAX_TILE_TOKENS * n_blocks * scales_of_block(format) <= SCALES_CAPACITY;
}

void multiply_file_order(enum format format, int64_t n_blocks, const uint8_t *weights, int64_t row_bytes,
                         int64_t n_rows, const uint8_t *activations, int64_t token_bytes, int64_t n_tokens, float *out,
                         int64_t out_stride) {
    const struct product p = {n_blocks, row_bytes, token_bytes, out_stride, weights, activations, out};
    const int64_t max_tokens = max_prepared_tokens(format, n_blocks);
    for (int64_t first = 0; first < n_tokens; first += max_tokens) {
        const int64_t count = n_tokens - first < max_tokens ? n_tokens - first : max_tokens;
        prepare_scales(format, count, n_blocks, activations + first * token_bytes, token_bytes);
        rows_function_of(format)(&p, count, activations + first * token_bytes, out + first * out_stride, 0, n_rows);
    }
}

/* Rows `begin` to `end`, whose number is at most n_rows, and NaN where a token's activations had one. */
static void compute_chunk(rows_function *rows, const struct product *p, int64_t n_rows, int64_t first_token,
                          int64_t n_tokens, int64_t begin, int64_t end) {
    if (end > n_rows) end = n_rows;
    rows(p, n_tokens, p->activations + first_token * p->token_bytes, p->out + first_token * p->out_stride, begin, end);
    spread_nan(p->out, p->out_stride, first_token, n_tokens, begin, end);
}

static void compute_product(const struct ggml_compute_params *params, enum format format, const struct product *p,
                            int64_t n_rows, int64_t n_tokens) {
    rows_function *rows = rows_function_of(format);
    const int64_t max_tokens = max_prepared_tokens(format, p->n_blocks);
    const bool chunked = params->nth > 1 && can_share_work(params) && n_rows * p->row_bytes >= MIN_CHUNKED_BYTES;
    for (int64_t first = 0; first < n_tokens; first += max_tokens) {
        const int64_t count = n_tokens - first < max_tokens ? n_tokens - first : max_tokens;
        prepare_scales(format, count, p->n_blocks, p->activations + first * p->token_bytes, p->token_bytes);
        if (!chunked) {
            const int64_t quads = (n_rows + 3) / 4, begin = quads * params->ith / params->nth * 4;
            compute_chunk(rows, p, n_rows, first, count, begin, quads * (params->ith + 1) / params->nth * 4);
            continue;
        }
        ggml_barrier(params->threadpool);
        if (params->ith == 0) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
        ggml_barrier(params->threadpool);
        for (int64_t chunk = params->ith; chunk * CHUNK_ROWS < n_rows;
             chunk = upstream.ggml_threadpool_chunk_add(params->threadpool, 1))
            compute_chunk(rows, p, n_rows, first, count, chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS);
    }
}

/* out[j * out_stride + i] = row i of the weights . activations of token j. Rows and activations have n_blocks blocks,
 * and row_blocks and token_blocks are from one to the next. Called by every thread of the pool; true when it is
 * computed. */
EXPORT bool llamafile_sgemm(const struct ggml_compute_params *params, int64_t n_rows, int64_t n_tokens,
                            int64_t n_blocks, const void *weights, int64_t row_blocks, const void *activations,
                            int64_t token_blocks, void *out, int64_t out_stride, int weight_type, int activation_type,
                            int out_type) {
    enum format format;
    if (!find_format((enum ggml_type)weight_type, &format) || out_type != GGML_TYPE_F32 ||
        !is_computed_in_file_order(format, (enum ggml_type)activation_type) || !fits_file_order(format, n_blocks))
        return upstream.llamafile_sgemm &&
               upstream.llamafile_sgemm(params, n_rows, n_tokens, n_blocks, weights, row_blocks, activations,
                                        token_blocks, out, out_stride, weight_type, activation_type, out_type);
    const struct format_traits t = traits_of(format);
    const struct product p = {
        n_blocks, row_blocks * t.bytes, token_blocks * t.activation_bytes, out_stride, weights, activations, out};
    if (params->ith == 0) product_counts[DENSE].in_file_order++;
    compute_product(params, format, &p, n_rows, n_tokens);
    return true;
}
#else
/* ---- Tiers without tiles ----------------------------------------------------------------------------------------- */

bool fits_file_order(enum format format, int64_t n_blocks) {
    (void)format, (void)n_blocks;
    return false;
}

void multiply_file_order(enum format format, int64_t n_blocks, const uint8_t *weights, int64_t row_bytes,
                         int64_t n_rows, const uint8_t *activations, int64_t token_bytes, int64_t n_tokens, float *out,
                         int64_t out_stride) {
    (void)format, (void)n_blocks, (void)weights, (void)row_bytes, (void)n_rows, (void)activations, (void)token_bytes,
        (void)n_tokens, (void)out, (void)out_stride;
    abort(); /* fits_file_order says that it can't be called. */
}

EXPORT bool llamafile_sgemm(const struct ggml_compute_params *params, int64_t n_rows, int64_t n_tokens,
                            int64_t n_blocks, const void *weights, int64_t row_blocks, const void *activations,
                            int64_t token_blocks, void *out, int64_t out_stride, int weight_type, int activation_type,
                            int out_type) {
    return upstream.llamafile_sgemm &&
           upstream.llamafile_sgemm(params, n_rows, n_tokens, n_blocks, weights, row_blocks, activations, token_blocks,
                                    out, out_stride, weight_type, activation_type, out_type);
}
#endif
