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
#include "products/repacked_avx512.h"

/* Bypass the first-level cache, which holds the panel: 4.5 ns a product of two tiles instead of 5.9. */
#define TILE_STREAM(tile, from)                                                                                        \
    __asm__ volatile("tileloaddt1\t(%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"(64L) : "memory")

#define SIDE       16         /* rows, or tokens, of a tile */
#define PANEL      (2 * SIDE) /* rows of a panel, and tokens that are computed together */
#define TILE_BYTES 1024       /* 16 by 32 numbers of bf16, or 16 by 16 of single precision */
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

/* Eight lanes from `from` on, each twice. */
INLINE __m512 doubled(__m512 v, int from) {
    const __m512i lanes = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(from)), v);
}

/* Which bits of a byte are a weight. Of the bytes of each lane, the third's lowest four or six bits are used, or the
 * second's highest four or all eight. */
enum quant_bits { LOW_NIBBLE, LOW_SIX, HIGH_NIBBLE, WHOLE_BYTE };

/* How quants become d * q + m.
 *
 * A byte in the place of a float's fraction, under the exponent of a power of two, is that power of two plus the byte.
 * So no conversion is needed: the product with d, fused with the sum of m minus d times the power, is as exact as with
 * a conversion (m is rounded to 2^-13 of d where it isn't a multiple of d). */
struct dequantiser {
    __m512i bits;
    __m512 power, times[2], plus[2]; /* of the first and of the last eight rows, each twice */
};

INLINE struct dequantiser dequantiser_of(enum quant_bits bits, __m512 d, __m512 m) {
    static const int masks[] = {
        [LOW_NIBBLE] = 0xf0000, [LOW_SIX] = 0x3f0000, [HIGH_NIBBLE] = 0xf000, [WHOLE_BYTE] = 0xff00};
    struct dequantiser as;
    as.bits = _mm512_set1_epi32(masks[bits]);
    as.power = _mm512_set1_ps(bits == HIGH_NIBBLE ? 2048 : bits == WHOLE_BYTE ? 32768 : 128);
    const __m512 plus = _mm512_fnmadd_ps(d, as.power, m);
    for (int h = 0; h < 2; h++) as.times[h] = doubled(d, 8 * h), as.plus[h] = doubled(plus, 8 * h);
    return as;
}

/* Two weights of each of 16 rows. One permutation brings the bytes to their lanes, and weights into pairs. */
struct row_pairs {
    __m512i rows[2];
};

INLINE struct row_pairs pairs_of(__m512i four, int pair) {
    /* The first two bytes of each of eight rows. */
    const __m512i two = _mm512_mullo_epi32(_mm512_set_epi32(29, 28, 25, 24, 21, 20, 17, 16, 13, 12, 9, 8, 5, 4, 1, 0),
                                           _mm512_set1_epi32(0x01010101));
    struct row_pairs p;
    for (int h = 0; h < 2; h++)
        p.rows[h] = _mm512_permutexvar_epi8(_mm512_add_epi8(two, _mm512_set1_epi8((char)(32 * h + 2 * pair))), four);
    return p;
}

INLINE void store_pairs(uint8_t *to, struct row_pairs p, const struct dequantiser *as) {
    __m512 numbers[2];
    for (int h = 0; h < 2; h++) {
        /* p & bits | power */
        const __m512i bits = _mm512_ternarylogic_epi32(p.rows[h], as->bits, _mm512_castps_si512(as->power), 0xea);
        numbers[h] = _mm512_fmadd_ps(_mm512_castsi512_ps(bits), as->times[h], as->plus[h]);
    }
    _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(numbers[1], numbers[0]));
}

/* Unpacked quants of 16 rows by 32 weights to a tile: a line is two weights of each of 16 rows. as[0] is for the first
 * 16 weights, as[1] for the others. */
INLINE void quants_to_tile(const __m512i q[8], const struct dequantiser as[2], uint8_t *tile) {
    for (int c = 0; c < 8; c++)
        for (int pair = 0; pair < 2; pair++) store_pairs(tile + 64 * (2 * c + pair), pairs_of(q[c], pair), as + c / 4);
}

/* A repacked group whose quants have to be unpacked to a tile. */
INLINE void unpacked_group_to_tile(enum format format, const uint8_t *group, uint8_t *tile) {
    const struct format_traits t = traits_of(format);
    const __m512 d = load_group_scales(format, group);
    const __m512 m = t.has_min ? load_f16x16(group + 32) : _mm512_mul_ps(d, _mm512_set1_ps((float)-t.zero_point));
    struct dequantiser as[2];
    __m512i q[8];
    as[0] = as[1] = dequantiser_of(t.zero_point == 128 ? WHOLE_BYTE : LOW_SIX, d, m);
    unpack_group(format, group, q);
    quants_to_tile(q, as, tile);
}

/* A repacked group to a tile. */
INLINE void group_to_tile(enum format format, const uint8_t *group, uint8_t *tile) {
    const struct format_traits t = traits_of(format);
    const bool bytes = t.encoding == SIGNED_BYTES; /* else NIBBLES */
    const __m512 d = load_f16x16(group);
    const __m512 m = t.has_min ? load_f16x16(group + 32) : _mm512_mul_ps(d, _mm512_set1_ps((float)-t.zero_point));
    const struct dequantiser low = dequantiser_of(bytes ? WHOLE_BYTE : LOW_NIBBLE, d, m);
    const struct dequantiser high = dequantiser_of(HIGH_NIBBLE, d, m);
    for (int c = 0; c < (bytes ? 8 : 4); c++)
        for (int pair = 0; pair < 2; pair++) {
            const struct row_pairs p = pairs_of(_mm512_loadu_si512(group + quants_at(format) + 64 * c), pair);
            store_pairs(tile + 64 * (2 * c + pair), p, &low);
            if (!bytes) store_pairs(tile + 64 * (8 + 2 * c + pair), p, &high);
        }
}

/* Weights 32 n to 32 n + 31 of a group of super-blocks to a tile. */
INLINE void super_part_to_tile(enum format format, const uint8_t *group, int n, uint8_t *tile) {
    const struct format_traits t = traits_of(format);
    const bool fine = t.weights_per_scale == 16;                         /* two scales */
    const __m512 d = load_f16x16(group), dmin = load_f16x16(group + 32); /* unused without minima */
    const __m512i pairs = t.has_min ? load_min_pairs(format, group, fine ? n : n / 2) : _mm512_setzero_si512();
    __m512 scale[2];
    load_part_scales(format, group, n, scale);
    struct dequantiser as[2];
    for (int half = 0; half < 2; half++) {
        const bool odd = fine ? half : n % 2;
        const __m512i min = odd ? _mm512_srli_epi32(pairs, 16) : _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff));
        const __m512 by = _mm512_mul_ps(d, scale[half]);
        const __m512 m = t.has_min
                             ? _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_setzero_si512(), min)))
                             : _mm512_mul_ps(by, _mm512_set1_ps((float)-t.zero_point));
        const enum quant_bits bits = t.encoding == NIBBLES ? (n % 2 ? HIGH_NIBBLE : LOW_NIBBLE)
                                     : t.encoding == CODES ? WHOLE_BYTE
                                                           : LOW_SIX;
        as[half] = dequantiser_of(bits, by, m);
    }
    __m512i q[8];
    if (t.encoding != NIBBLES) unpack_super_part(format, group, n, q);
    else /* a dequantiser takes nibbles out of bytes */
        for (int c = 0; c < 8; c++) q[c] = _mm512_loadu_si512(group + super_quants_at(format) + 512 * (n / 2) + 64 * c);
    quants_to_tile(q, as, tile);
}

/* Part n of a group of super-blocks, whose unpacking shifts by constants. */
INLINE void super_to_tile(enum format format, const uint8_t *group, int n, uint8_t *tile) {
#define PART(N)                                                                                                        \
    case N: super_part_to_tile(format, group, N, tile); return;
    switch (n) { PART(0) PART(1) PART(2) PART(3) PART(4) PART(5) PART(6) PART(7) }
#undef PART
    __builtin_unreachable();
}

/* A group of 16-bit floats to a tile. */
INLINE void floats_to_tile(enum format format, const uint8_t *group, uint8_t *tile) {
    for (int pair = 0; pair < 16; pair++) {
        __m512i two = _mm512_loadu_si512(group + 64 * pair); /* BF16 lies as in a tile */
        if (format == F16) {
            const __m256i first = (__m256i)_mm512_cvtneps_pbh(load_f16x16(group + 64 * pair));
            const __m256i second = (__m256i)_mm512_cvtneps_pbh(load_f16x16(group + 64 * pair + 32));
            two = _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
        }
        _mm512_store_si512(tile + 64 * pair, two);
    }
}

/* Block i, of 32 weights, of 16 rows to a tile. */
INLINE void block_to_tile(enum format format, const uint8_t *groups, int64_t i, uint8_t *tile) {
    const int64_t bytes = group_bytes(format);
    switch (format) {
#define BLOCK(name)                                                                                                    \
    case name:                                                                                                         \
        group_to_tile(name, groups + i * bytes, tile);                                                                 \
        return;
#define UNPACKED(name)                                                                                                 \
    case name:                                                                                                         \
        unpacked_group_to_tile(name, groups + i * bytes, tile);                                                        \
        return;
#define SUPER(name)                                                                                                    \
    case name: super_to_tile(name, groups + i / 8 * bytes, (int)(i % 8), tile); return;
        BLOCK(Q4_0)
        BLOCK(Q4_1)
        BLOCK(Q8_0)
        UNPACKED(Q5_0)
        UNPACKED(Q5_1)
        UNPACKED(IQ4_NL)
        UNPACKED(MXFP4)
        SUPER(Q2_K)
        SUPER(Q3_K)
        SUPER(Q4_K)
        SUPER(Q5_K)
        SUPER(Q6_K)
        SUPER(IQ4_XS)
        case F16: floats_to_tile(F16, groups + i * bytes, tile); return;
        case BF16: floats_to_tile(BF16, groups + i * bytes, tile); return;
#undef BLOCK
#undef UNPACKED
#undef SUPER
    }
    __builtin_unreachable();
}

/* Blocks `first` and the following of one or two times 16 rows, from `row` on, to tiles. */
static void unpack_rows(const struct repacked *w, int64_t row, int n_groups, int64_t first, int64_t n_blocks,
                        uint8_t *panel) {
    for (int g = 0; g < n_groups; g++) {
        const uint8_t *groups = w->data + (row / GROUP_ROWS + g) * w->n_blocks * group_bytes(w->format);
        for (int64_t i = first; i < first + n_blocks; i++, panel += TILE_BYTES)
            block_to_tile(w->format, groups, i, panel);
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
    if (!tailrace_kernels_amx_usable()) return false;
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
