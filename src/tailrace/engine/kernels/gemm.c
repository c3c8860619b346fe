/* Products of quantised weights and quantised activations, in the place of llama.cpp's own: who computes which rows.
 *
 * llama.cpp offers every matrix product on the CPU to llamafile_sgemm first and computes it row by row when that says
 * no. The dynamic linker takes the first definition that it finds: this library's, when it is loaded before llama.cpp's.
 * What isn't done here goes on to theirs (tailrace_kernels_theirs). Before that it asks for tiles; there, products with
 * weights that have been copied in another order go to interleaved.c.
 *
 * Here weights stay as the file has them, and so does the arithmetic: products of integers, summed exactly within a block
 * and times the blocks' scales in single precision. Three things make it faster than a dot product at a time: a block of
 * weights is unpacked once for up to four columns (streams, or tokens of a prompt), products of 64 bytes are one
 * instruction, and weights are asked for 8 KB before they are needed, because a single row is too short for the
 * hardware to notice that memory is read in order. SmolLM2-135M in Q4_1 on 2 cores (Zen 5): decode 2.4 times,
 * 4 columns 3.5 times, a prompt of 512 tokens 3.0 times as fast as without.
 *
 * Blocks are those of formats.h, and what is done with them is in tiles_avx512.h. Built by build.py, which also proves
 * every format's results.
 */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "abi.h"
#include "copies.h"
#include "formats.h"
#include "kept.h"
#include "prompt_amx.h"
#include "tiles_avx512.h"

struct theirs theirs;

void tailrace_kernels_theirs(const struct theirs *functions) { theirs = *functions; }

#define TILED_FROM 16             /* columns: from here on llama.cpp's tiles for super-blocks are faster */
#define MOST_COLUMNS 64           /* whose scales are made ready at a time */
#define TURN 64                   /* rows of a turn */
#define ROOM 32768
static _Thread_local float ready[ROOM] __attribute__((aligned(64)));

/* ---- Columns made ready -------------------------------------------------------------------------------------------- */

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

static bool computed_here(int type) { return rows_for(type, Q8_0) || rows_for(type, Q8_1) || rows_for(type, Q8_K); }

/* ---- Damage ------------------------------------------------------------------------------------------------------- */

/* The thread's coming product, if its activations hold something that isn't a number: llama.cpp rounds them to 8 bits before
 * it asks for the product, and makes a number of it. */
static _Thread_local struct {
    const void *result;
    const struct tensor *columns;
} damaged;

static bool ordered(const struct tensor *b, int64_t column) {
    const float *x = (const float *)((const char *)b->data + column * (int64_t)b->strides[1]);
    __mmask16 all = 0xffff;
    for (int64_t i = 0; i < b->sizes[0] / 16 * 16; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        all &= _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
    }
    return all == 0xffff;
}

static bool all_ordered(const struct tensor *b) {
    for (int64_t j = 0; j < b->sizes[1]; j++)
        if (!ordered(b, j)) return false;
    return true;
}

/* Rows from `from` to `till` of a product's columns from `first` on: no numbers where the activations are none. */
static void spoil(const struct product_of *p, int64_t first, int64_t columns, int64_t from, int64_t till) {
    if (OWN(damaged)->result != p->c) return;
    for (int64_t j = first; j < first + columns; j++) {
        if (ordered(OWN(damaged)->columns, j)) continue;
        for (int64_t r = from; r < till; r++) p->c[j * p->ldc + r] = NAN;
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
            const int64_t end = quads * (call->thread + 1) / call->threads * 4, start = quads * call->thread / call->threads * 4;
            rows(&p, columns, y, out, start, end < m ? end : m);
            spoil(&p, from, columns, start, end < m ? end : m);
            continue;
        }
        ggml_barrier(call->pool);
        if (call->thread == 0) theirs.pool_set(call->pool, call->threads);
        ggml_barrier(call->pool);
        for (int64_t turn = call->thread; turn * TURN < m; turn = theirs.pool_add(call->pool, 1)) {
            const int64_t end = (turn + 1) * TURN;
            rows(&p, columns, y, out, turn * TURN, end < m ? end : m);
            spoil(&p, from, columns, turn * TURN, end < m ? end : m);
        }
    }
    return true;
}

/* llama.cpp asks here before llamafile_sgemm. Its own tiles are for super-blocks from 8 columns on. On Q4_K_M with layers
 * 2048 wide (2 cores, Zen 5) a step of 8 columns took 31 ms with its tiles and 18 with the code above, 16 columns 32 and
 * 35, a prompt of 256 tokens 220 and 590. */
bool ggml_compute_forward_mul_mat_tiled(const struct call *call, struct tensor *result) {
    const struct tensor *a = result->sources[0], *b = result->sources[1];
    if (call->thread == 0 && makes_logits(result)) keep_nothing();
    OWN(damaged)->result = 0;
    const struct interleaved *copy = copy_of(call, a);
    if (copy && (wide_product(call, copy, b, result) || interleaved_product(call, copy, result))) return true;
    if (theirs.tiled && !(b->sizes[1] < TILED_FROM && rows_for(a->type, Q8_K)) && theirs.tiled(call, result)) return true;
    const bool plain = b->type == F32 && b->strides[0] == 4 && b->sizes[2] == 1 && b->sizes[3] == 1;
    if (plain && computed_here(a->type) && !all_ordered(b)) *OWN(damaged) = (__typeof__(damaged)){result->data, b};
    return false;
}
