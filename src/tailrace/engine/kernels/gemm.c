/* Products of quantised weights and quantised activations for CPUs with AVX-512 VNNI, in the place of llama.cpp's own.
 *
 * llama.cpp offers every matrix product on the CPU to llamafile_sgemm first and computes it row by row when that says
 * no. The dynamic linker takes the first definition that it finds: this library's, when it is loaded before llama.cpp's.
 * What isn't done here goes on to theirs (tailrace_kernels_theirs).
 *
 * Weights stay as the file has them, and so does the arithmetic: products of integers, summed exactly within a block
 * and times the blocks' scales in single precision. Three things make it faster than a dot product at a time: a block of
 * weights is unpacked once for up to four columns (streams, or tokens of a prompt), products of 64 bytes are one
 * instruction, and weights are asked for 8 KB before they are needed, because a single row is too short for the
 * hardware to notice that memory is read in order. SmolLM2-135M in Q4_1 on 2 cores (Zen 5): decode 2.4 times,
 * 4 columns 3.5 times, a prompt of 512 tokens 3.0 times as fast as without.
 *
 * Formats of blocks: ggml-common.h of llama.cpp. Built by build.py, which also proves every format's results.
 */
#include <immintrin.h>
#include <string.h>

#include "abi.h"

enum { F32 = 0, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9, Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15 };

struct theirs theirs;

void tailrace_kernels_theirs(const struct theirs *functions) { theirs = *functions; }

#define TILED_FROM 16             /* columns: from here on llama.cpp's tiles for super-blocks are faster */
#define MOST_COLUMNS 64           /* whose scales are made ready at a time */
#define AHEAD 8192                /* bytes; 4096 and 16384 gave 0.95 and 0.97 of its speed */
#define LARGE (1 << 20)           /* bytes of weights from which threads take turns instead of fixed shares */
#define TURN 64                   /* rows of a turn */
#define ROOM 32768
static _Thread_local float ready[ROOM] __attribute__((aligned(64)));

INLINE uint32_t word(const uint8_t *p) {
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
}
INLINE uint64_t half_bits(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return h;
}
INLINE float half(const uint8_t *p) { return _cvtsh_ss((uint16_t)half_bits(p)); }
INLINE float sum(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float low(__m512 v) { return sum(_mm512_castps512_ps256(v)); }
INLINE float high(__m512 v) { return sum(_mm512_extractf32x8_ps(v, 1)); }
INLINE __m512i twice(const uint8_t *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void ask_for(const uint8_t *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

/* ---- Blocks of 32 weights: d * (q - offset) + m, where q is unsigned -------------------------------------------- */

struct format {
    int type, bytes, column_bytes, quants; /* quants: where they begin in a block */
    int offset;
    bool minimum; /* there is an m: the columns are Q8_1, which knows its sum */
};

INLINE struct format format_of(int type) {
    switch (type) {
        case Q4_0: return (struct format){type, 18, 34, 2, 8, false};
        case Q4_1: return (struct format){type, 20, 36, 4, 0, true};
        case Q5_0: return (struct format){type, 22, 34, 6, 16, false};
        case Q5_1: return (struct format){type, 24, 36, 8, 0, true};
        default: return (struct format){type, 34, 34, 2, 128, false};
    }
}

/* The unsigned quants of a block of one row (lower half) and of the same block of another. */
INLINE __m512i quants(struct format f, const uint8_t *one, const uint8_t *other) {
    const __m128i *p = (const __m128i *)(one + f.quants), *q = (const __m128i *)(other + f.quants);
    if (f.type == Q8_0) {
        __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
        v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)q), 1);
        return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
    }
    __m512i v = _mm512_broadcast_i32x4(_mm_loadu_si128(p));
    v = _mm512_mask_broadcast_i32x4(v, 0xff00, _mm_loadu_si128(q));
    /* The low nibbles are the first 16 weights, the high ones the others. */
    v = _mm512_srlv_epi64(v, _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0));
    v = _mm512_and_si512(v, _mm512_set1_epi8(15));
    if (f.type == Q5_0 || f.type == Q5_1) {
        const uint64_t fifth = word(one + f.quants - 4) | (uint64_t)word(other + f.quants - 4) << 32;
        v = _mm512_mask_add_epi8(v, fifth, v, _mm512_set1_epi8(16));
    }
    return v;
}

/* Four rows (the last ones the same where there are fewer) by up to four columns. */
INLINE void blocks_tile(struct format f, int columns, int64_t k, const uint8_t *x, int64_t row, const uint8_t *y,
                        int64_t column, const float *scales, float *c, int64_t ldc, int rows) {
    const uint8_t *r[4];
    for (int i = 0; i < 4; i++) r[i] = x + (i < rows ? i : rows - 1) * row;
    __m512 a[4], b[4];
    __m256 m[4];
    for (int j = 0; j < columns; j++) {
        a[j] = b[j] = _mm512_setzero_ps();
        m[j] = _mm256_setzero_ps();
    }
    const int s = f.minimum ? 2 : 1; /* every other lane of the scales is an m */
    const __m512i first = _mm512_set_epi32(s, s, s, s, s, s, s, s, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(2 * s));
    for (int64_t i = 0; i < k; i++) {
        const int64_t o = i * f.bytes;
        ask_for(x + 4 * o + AHEAD);
        ask_for(x + 4 * o + AHEAD + 64);
        const __m512i q01 = quants(f, r[0] + o, r[1] + o), q23 = quants(f, r[2] + o, r[3] + o);
        __m256 d;
        if (f.minimum) {
            d = _mm256_cvtph_ps(_mm_set_epi32((int)word(r[3] + o), (int)word(r[2] + o), (int)word(r[1] + o), (int)word(r[0] + o)));
        } else {
            const uint64_t h = half_bits(r[0] + o) | half_bits(r[1] + o) << 16 | half_bits(r[2] + o) << 32 | half_bits(r[3] + o) << 48;
            d = _mm256_castps128_ps256(_mm_cvtph_ps(_mm_cvtsi64_si128((int64_t)h)));
        }
        const __m512 d01 = _mm512_permutexvar_ps(first, _mm512_castps256_ps512(d));
        const __m512 d23 = _mm512_permutexvar_ps(second, _mm512_castps256_ps512(d));
        for (int j = 0; j < columns; j++) {
            const float *own = scales + (j * k + i) * 2;
            const __m512i v = twice(y + j * column + i * f.column_bytes + (f.minimum ? 4 : 2));
            /* The offset's share of the sum, in one lane of either row. */
            const __m512i start = f.minimum ? _mm512_setzero_si512() : _mm512_maskz_set1_epi32(0x0101, (int)word((const uint8_t *)(own + 1)));
            const __m512 e = _mm512_set1_ps(own[0]);
            a[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q01, v)), _mm512_mul_ps(d01, e), a[j]);
            b[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q23, v)), _mm512_mul_ps(d23, e), b[j]);
            if (f.minimum) m[j] = _mm256_fmadd_ps(d, _mm256_set1_ps(own[1]), m[j]);
        }
    }
    for (int j = 0; j < columns; j++) {
        float minima[8];
        _mm256_storeu_ps(minima, m[j]);
        const float found[4] = {low(a[j]) + minima[1], high(a[j]) + minima[3], low(b[j]) + minima[5], high(b[j]) + minima[7]};
        memcpy(c + j * ldc, found, (size_t)rows * sizeof(float));
    }
}

/* Each block of the columns: its scale, and its sum times that (Q8_1) or times the offset (an integer's bits). */
INLINE void blocks_ready(struct format f, int64_t columns, int64_t k, const uint8_t *y, int64_t column) {
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < k; i++) {
            const uint8_t *p = y + j * column + i * f.column_bytes;
            float *own = ready + (j * k + i) * 2;
            own[0] = half(p);
            if (f.minimum) {
                own[1] = half(p + 2);
                continue;
            }
            const __m256i v = _mm256_loadu_si256((const __m256i *)(p + 2));
            const __m256i s = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), v);
            __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
            h = _mm_add_epi32(h, _mm_unpackhi_epi64(h, h));
            const int32_t all = -f.offset * (_mm_cvtsi128_si32(h) + _mm_extract_epi32(h, 1));
            memcpy(own + 1, &all, 4);
        }
}

/* ---- Super-blocks of 256 weights: d * scale * q - the minima's share ---------------------------------------------- */

enum { COLUMN_K = 292, READY_K = 17 }; /* bytes of a block of a column; floats that are made ready of it */

INLINE int bytes_k(int type) { return type == Q4_K ? 144 : type == Q5_K ? 176 : 210; }

/* Scales of a super-block (8 of 32 weights, or 16 of 16) and what its sums are to be taken times. */
INLINE void scales_k(int type, const uint8_t *x, __m512 *scale, __m512 *minimum) {
    if (type == Q6_K) {
        const __m512 s = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(x + 192))));
        *scale = *minimum = _mm512_mul_ps(s, _mm512_set1_ps(half(x + 208)));
        return;
    }
    const uint32_t a = word(x + 4), b = word(x + 8), c = word(x + 12);
    const __m128i s = _mm_set_epi32(0, 0, (int)((c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)), (int)(a & 0x3f3f3f3f));
    const __m128i m = _mm_set_epi32(0, 0, (int)((c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)), (int)(b & 0x3f3f3f3f));
    *scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(s)), _mm512_set1_ps(half(x)));
    *minimum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(m)), _mm512_set1_ps(half(x + 2)));
}

/* Weights 64 g to 64 g + 63 of a super-block, unsigned. */
INLINE __m512i quants_k(int type, const uint8_t *x, int g) {
    const __m512i four = _mm512_set1_epi8(15);
    if (type == Q6_K) {
        __m512i v = _mm512_loadu_si512(x + 64 * (g / 2));
        v = _mm512_and_si512(g % 2 ? _mm512_srli_epi16(v, 4) : v, four);
        const int shift = g % 2 * 4;
        const __m512i by = _mm512_set_epi64(shift + 2, shift + 2, shift + 2, shift + 2, shift, shift, shift, shift);
        const __m512i h = _mm512_srlv_epi64(twice(x + 128 + 32 * (g / 2)), by);
        return _mm512_or_si512(v, _mm512_slli_epi16(_mm512_and_si512(h, _mm512_set1_epi8(3)), 4));
    }
    const __m512i halves = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
    __m512i v = _mm512_and_si512(_mm512_srlv_epi64(twice(x + (type == Q5_K ? 48 : 16) + 32 * g), halves), four);
    if (type == Q5_K) {
        const __m512i by = _mm512_set_epi64(2 * g + 1, 2 * g + 1, 2 * g + 1, 2 * g + 1, 2 * g, 2 * g, 2 * g, 2 * g);
        const __m512i h = _mm512_and_si512(_mm512_srlv_epi64(twice(x + 16), by), _mm512_set1_epi8(1));
        v = _mm512_or_si512(v, _mm512_slli_epi16(h, 4));
    }
    return v;
}

/* One row by up to four columns. */
INLINE void super_tile(int type, int columns, int64_t k, const uint8_t *x, const uint8_t *y, int64_t column,
                       const float *scales, float *c, int64_t ldc) {
    __m512 a[4];
    for (int j = 0; j < columns; j++) a[j] = _mm512_setzero_ps();
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i spread = type == Q6_K ? _mm512_srli_epi32(lanes, 2) : _mm512_srli_epi32(lanes, 3);
    for (int64_t i = 0; i < k; i++, x += bytes_k(type)) {
        for (int line = 0; line < bytes_k(type); line += 64) ask_for(x + AHEAD + line);
        __m512 scale, minimum, part[4];
        scales_k(type, x, &scale, &minimum);
        for (int j = 0; j < columns; j++) part[j] = _mm512_setzero_ps();
        for (int g = 0; g < 4; g++) {
            const __m512i q = quants_k(type, x, g);
            const __m512i which = _mm512_add_epi32(spread, _mm512_set1_epi32((type == Q6_K ? 4 : 2) * g));
            const __m512 s = _mm512_permutexvar_ps(which, scale);
            for (int j = 0; j < columns; j++) {
                const __m512i v = _mm512_loadu_si512(y + j * column + i * COLUMN_K + 4 + 64 * g);
                part[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), q, v)), s, part[j]);
            }
        }
        for (int j = 0; j < columns; j++) {
            const float *own = scales + (j * k + i) * READY_K;
            a[j] = _mm512_fmadd_ps(part[j], _mm512_set1_ps(own[0]), a[j]);
            a[j] = _mm512_fmadd_ps(minimum, _mm512_loadu_ps(own + 1), a[j]);
        }
    }
    for (int j = 0; j < columns; j++) c[j * ldc] = low(a[j]) + high(a[j]);
}

/* Each block of the columns: its scale, and its sums times that and the sign or offset that they count with. */
INLINE void super_ready(int type, int64_t columns, int64_t k, const uint8_t *y, int64_t column) {
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < k; i++) {
            const uint8_t *p = y + j * column + i * COLUMN_K;
            float *own = ready + (j * k + i) * READY_K;
            memcpy(own, p, 4);
            const __m256i sums = _mm256_loadu_si256((const __m256i *)(p + 260));
            __m512i wide = _mm512_cvtepi16_epi32(sums);
            if (type != Q6_K) wide = _mm512_zextsi256_si512(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
            const float times = type == Q6_K ? -32 * own[0] : -own[0];
            _mm512_storeu_ps(own + 1, _mm512_mul_ps(_mm512_cvtepi32_ps(wide), _mm512_set1_ps(times)));
        }
}

/* ---- Whole products ---------------------------------------------------------------------------------------------- */

struct product_of {
    int type;
    int64_t k, row, column, ldc;     /* blocks; bytes of a row and of a column; floats between columns of c */
    const uint8_t *x, *y;
    float *c;
};

/* With the number of columns (and the format) known to the compiler, tiles live in registers. */
#define TILES(call)                                       \
    switch (left) {                                       \
        case 1: call(1); break;                           \
        case 2: call(2); break;                           \
        case 3: call(3); break;                           \
        default: call(4); break;                          \
    }

INLINE void rows_of(int type, const struct product_of *p, int64_t columns, const uint8_t *y, float *c, int64_t from, int64_t till) {
    const int step = type >= Q4_K ? 1 : 4;
    for (int64_t r = from; r < till; r += step)
        for (int64_t j = 0; j < columns; j += 4) {
            const int64_t left = columns - j;
            const uint8_t *x = p->x + r * p->row, *at = y + j * p->column;
            float *out = c + j * p->ldc + r;
            if (type >= Q4_K) {
                const float *scales = ready + j * p->k * READY_K;
#define SUPER(N) super_tile(type, N, p->k, x, at, p->column, scales, out, p->ldc)
                TILES(SUPER)
            } else {
                const float *scales = ready + j * p->k * 2;
                const int rows = till - r < 4 ? (int)(till - r) : 4;
#define BLOCKS(N) blocks_tile(format_of(type), N, p->k, x, p->row, at, p->column, scales, out, p->ldc, rows)
                TILES(BLOCKS)
            }
        }
}

#define ROWS(T)                                                                                                   \
    static __attribute__((noinline)) void rows_##T(const struct product_of *p, int64_t columns, const uint8_t *y, \
                                                   float *c, int64_t from, int64_t till) {                        \
        rows_of(T, p, columns, y, c, from, till);                                                                 \
    }
ROWS(Q4_0) ROWS(Q4_1) ROWS(Q5_0) ROWS(Q5_1) ROWS(Q8_0) ROWS(Q4_K) ROWS(Q5_K) ROWS(Q6_K)

typedef void (*rows_function)(const struct product_of *, int64_t, const uint8_t *, float *, int64_t, int64_t);

static rows_function rows_for(int a, int b) {
    switch (a) {
        case Q4_0: return b == Q8_0 ? rows_Q4_0 : 0;
        case Q4_1: return b == Q8_1 ? rows_Q4_1 : 0;
        case Q5_0: return b == Q8_0 ? rows_Q5_0 : 0;
        case Q5_1: return b == Q8_1 ? rows_Q5_1 : 0;
        case Q8_0: return b == Q8_0 ? rows_Q8_0 : 0;
        case Q4_K: return b == Q8_K ? rows_Q4_K : 0;
        case Q5_K: return b == Q8_K ? rows_Q5_K : 0;
        case Q6_K: return b == Q8_K ? rows_Q6_K : 0;
        default: return 0;
    }
}

/* c[j * ldc + i] = row i of a times column j of b, for i < m and j < n; rows and columns have k blocks, lda and ldb
 * count blocks. Called by every thread of the pool; true when it is done. */
bool llamafile_sgemm(const struct call *call, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                     int64_t ldb, void *c, int64_t ldc, int a_type, int b_type, int c_type) {
    const rows_function rows = rows_for(a_type, b_type);
    const bool super = a_type >= Q4_K;
    const int64_t needs = k * (super ? READY_K : 2);
    if (!rows || c_type != F32 || needs * 4 > ROOM)
        return theirs.product ? theirs.product(call, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type) : false;
    const struct format f = format_of(a_type);
    const int bytes = super ? bytes_k(a_type) : f.bytes, column_bytes = super ? COLUMN_K : f.column_bytes;
    const struct product_of p = {a_type, k, lda * bytes, ldb * column_bytes, ldc, a, b, c};
    int64_t wide = ROOM / needs / 4 * 4;
    if (wide > MOST_COLUMNS) wide = MOST_COLUMNS;
    /* Fixed shares cost no waiting. Taking turns costs two barriers, and pays where a thread may lose its core for a
     * while (the HTTP process needs one, too), or where cores differ. */
    const bool turns = theirs.pool_add && call->threads > 1 && m * p.row >= LARGE;
    for (int64_t from = 0; from < n; from += wide) {
        const int64_t columns = n - from < wide ? n - from : wide;
        const uint8_t *y = p.y + from * p.column;
        float *out = p.c + from * ldc;
        if (super) super_ready(a_type, columns, k, y, p.column);
        else blocks_ready(f, columns, k, y, p.column);
        if (!turns) {
            const int64_t quads = (m + 3) / 4;
            const int64_t end = quads * (call->thread + 1) / call->threads * 4;
            rows(&p, columns, y, out, quads * call->thread / call->threads * 4, end < m ? end : m);
            continue;
        }
        theirs.pool_wait(call->pool);
        if (call->thread == 0) theirs.pool_set(call->pool, call->threads);
        theirs.pool_wait(call->pool);
        for (int64_t turn = call->thread; turn * TURN < m; turn = theirs.pool_add(call->pool, 1)) {
            const int64_t end = (turn + 1) * TURN;
            rows(&p, columns, y, out, turn * TURN, end < m ? end : m);
        }
    }
    return true;
}

/* llama.cpp asks here before llamafile_sgemm, for super-blocks from 8 columns on. On Q4_K_M with layers 2048 wide
 * (2 cores, Zen 5) a step of 8 columns took 31 ms with its tiles and 18 with the code above, 16 columns 32 and 35, a
 * prompt of 256 tokens 220 and 590. */
bool ggml_compute_forward_mul_mat_tiled(const struct call *call, struct tensor *result) {
    const struct tensor *a = result->sources[0], *b = result->sources[1];
    if (!theirs.tiled || (b->sizes[1] < TILED_FROM && rows_for(a->type, Q8_K))) return false;
    return theirs.tiled(call, result);
}
