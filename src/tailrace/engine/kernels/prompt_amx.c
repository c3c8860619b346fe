/* Products with many columns, the tokens of a prompt, in tiles of bf16 (AMX).
 *
 * Bytes as llama.cpp multiplies them here must be taken times a scale every 32 numbers, outside of the tiles, which takes
 * longer than the products. So weights become bf16 with their scales in them, 32 rows at a time, and
 * activations become bf16 too, which is more exact than the 8 bits that they have with a scale for 32 of them. Then a sum
 * stays in its tile for up to 640 numbers, in single precision.
 *
 * The products themselves are the least part of it: they would take 16 ms of the 110 in which SmolLM2-135M reads 512
 * tokens, and all of this takes some 50. What counts is where things lie:
 *
 *   panel        32 rows of weights by up to 640 numbers, made of the interleaved order by a thread for itself. It has room
 *                in the first cache, and activations pass it by (TILE_STREAM).
 *   activations  made bf16 by all threads together, tiles one after the other, so that nothing is at a distance that is a
 *                power of two, where caches have no room.
 *   sums         of rows that are longer than a part: on the way they are a thread's own, in tiles, for the same reason.
 *   unit         of work: up to 8 panels, which a part of the activations meets while it is in the second cache (6.9 ms
 *                instead of 12.9 for 2048 rows of 8192 numbers by 512 columns).
 *   ahead        the lines of the result are asked for while a tile is computed (15 ms of 150), and the next unit's
 *                weights meanwhile (12.5 ms instead of 14 for a prompt of 32 tokens).
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "amx.h"
#include "prompt_amx.h"
#include "tiles_interleaved.h"

#if HAS_AMX
/* Past the first cache, which has the panel: 4.5 ns a product of two tiles instead of 5.9. */
#define TILE_STREAM(tile, from) \
    __asm__ volatile("tileloaddt1\t(%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"(64L) : "memory")

#define SIDE 16              /* rows, or columns, of a tile */
#define PANEL (2 * SIDE)     /* rows of a panel, and columns that are computed together */
#define TILE_BYTES 1024      /* 16 by 32 numbers of bf16, or 16 by 16 of single precision */
#define TILE_SUMS (SIDE * SIDE)
#define MOST_BLOCKS 20       /* of a part */
#define MOST_PANELS 8        /* of a unit */

static _Thread_local uint8_t own_panel[2 * MOST_BLOCKS * TILE_BYTES] __attribute__((aligned(64)));
static _Thread_local float own_rest[4 * TILE_SUMS] __attribute__((aligned(64)));

struct wide {
    const struct interleaved *weights;
    const uint8_t *activations;    /* tiles: part by part, in it 16 columns after 16 columns, in those block by block */
    float *result, *sums;          /* sums: this thread's, for a unit's panels by all columns */
    uint8_t *panel;                /* tiles of the first 16 rows, block by block, then of the others */
    float *rest;                   /* for what has fewer columns than a tile */
    int64_t columns, groups, ldc;  /* groups of 16 columns; numbers from a column of the result to the next */
    int64_t blocks, parts;         /* of 32 numbers in a row; that it is cut into */
};

/* The block that a part begins with; `parts` of them are all. */
INLINE int64_t part_from(int64_t blocks, int64_t parts, int64_t part) { return blocks * part / parts; }

/* Memory that a pool's first thread keeps for all, since what llama.cpp gives an operation is too little. 0: none. */
static uint8_t *room_for(size_t size) {
    static _Thread_local void *room;
    static _Thread_local size_t has;
    if (size > has) {
        free(room);
        has = 0;
        if (posix_memalign(&room, 2 << 20, size)) return room = 0;
        madvise(room, size, MADV_HUGEPAGE); /* Refused or not, it is memory. */
        has = size;
    }
    return room;
}

/* Groups of columns to tiles of 16 columns by 32 numbers. Columns that aren't there are 0. */
INLINE void pack(const struct tensor *activations, int64_t blocks, int64_t parts, int64_t from, int64_t till, uint8_t *tiles) {
    const int64_t columns = activations->sizes[1], groups = (columns + SIDE - 1) / SIDE;
    for (int64_t column = from * SIDE; column < till * SIDE; column++) {
        const float *own = (const float *)((const char *)activations->data + column * activations->strides[1]);
        for (int64_t part = 0; part < parts; part++) {
            const int64_t first = part_from(blocks, parts, part), end = part_from(blocks, parts, part + 1);
            uint8_t *to = tiles + (first * groups + column / SIDE * (end - first)) * TILE_BYTES + column % SIDE * 64;
            for (int64_t i = first; i < end; i++, to += TILE_BYTES) {
                __m512i both = _mm512_setzero_si512();
                if (column < columns)
                    both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(own + 32 * i + 16), _mm512_loadu_ps(own + 32 * i));
                _mm512_store_si512(to, both);
            }
        }
    }
}

/* Eight lanes from `from` on, each twice. */
INLINE __m512 doubled(__m512 v, int from) {
    const __m512i lanes = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(from)), v);
}

/* Which bits of a byte are a weight. The byte is the second and the third of its lane: of the third its lowest four or six are
 * looked at, of the second its highest four or all eight. */
enum bits { LOW, SIX, HIGH, WHOLE };

/* How bits become d * q + m.
 *
 * A byte that is put where bits of a float's fraction are, under a power of two, is that power of two and itself, so a
 * number needs no conversion: fused, its product with d and the sum with m, less d times the power, are as exact as if it
 * had had one (m is rounded to 2^-13 of d where it isn't a multiple of d). */
struct meaning {
    __m512i bits;
    __m512 power, times[2], plus[2]; /* of the first and of the last eight rows, each twice */
};

INLINE struct meaning meaning_of(enum bits bits, __m512 d, __m512 m) {
    struct meaning as;
    as.bits = _mm512_set1_epi32(bits == LOW ? 0xf0000 : bits == SIX ? 0x3f0000 : bits == HIGH ? 0xf000 : 0xff00);
    as.power = _mm512_set1_ps(bits == HIGH ? 2048 : bits == WHOLE ? 32768 : 128);
    const __m512 plus = _mm512_fnmadd_ps(d, as.power, m);
    for (int h = 0; h < 2; h++) as.times[h] = doubled(d, 8 * h), as.plus[h] = doubled(plus, 8 * h);
    return as;
}

/* Two weights of each of 16 rows: one permutation brings the bytes to their lanes, and weights into pairs. */
struct pairs {
    __m512i rows[2];
};

INLINE struct pairs pairs_of(__m512i four, int pair) {
    /* The first two bytes of each of eight rows. */
    const __m512i two = _mm512_mullo_epi32(_mm512_set_epi32(29, 28, 25, 24, 21, 20, 17, 16, 13, 12, 9, 8, 5, 4, 1, 0),
                                           _mm512_set1_epi32(0x01010101));
    struct pairs p;
    for (int h = 0; h < 2; h++) p.rows[h] = _mm512_permutexvar_epi8(_mm512_add_epi8(two, _mm512_set1_epi8((char)(32 * h + 2 * pair))), four);
    return p;
}

INLINE void store_line(uint8_t *to, struct pairs p, const struct meaning *as) {
    __m512 numbers[2];
    for (int h = 0; h < 2; h++) {
        /* p & bits | power */
        const __m512i bits = _mm512_ternarylogic_epi32(p.rows[h], as->bits, _mm512_castps_si512(as->power), 0xea);
        numbers[h] = _mm512_fmadd_ps(_mm512_castsi512_ps(bits), as->times[h], as->plus[h]);
    }
    _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(numbers[1], numbers[0]));
}

/* A group of the interleaved order to a tile: a line is two weights of each of 16 rows. */
INLINE void unpack_group(int type, const uint8_t *group, uint8_t *tile) {
    const struct format f = format_of(type);
    const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)group));
    const __m512 m = f.minimum ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(group + 32)))
                               : _mm512_mul_ps(d, _mm512_set1_ps((float)-f.offset));
    const struct meaning low = meaning_of(type == Q8_0 ? WHOLE : LOW, d, m), high = meaning_of(HIGH, d, m);
    for (int c = 0; c < (type == Q8_0 ? 8 : 4); c++)
        for (int pair = 0; pair < 2; pair++) {
            const struct pairs p = pairs_of(_mm512_loadu_si512(group + group_head(f) + 64 * c), pair);
            store_line(tile + 64 * (2 * c + pair), p, &low);
            if (type != Q8_0) store_line(tile + 64 * (8 + 2 * c + pair), p, &high);
        }
}

/* Weights 32 n to 32 n + 31 of a group of super-blocks to a tile. */
INLINE void unpack_part(int type, const uint8_t *group, int n, uint8_t *tile) {
    const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)group));
    struct meaning as[2];
    __m512i q[8];
    if (type == Q4_K) {
        const __m256i both = _mm256_loadu_si256((const __m256i *)(group + 192 + 32 * (n / 2)));
        const __m256i own = n % 2 ? _mm256_srli_epi16(both, 8) : _mm256_and_si256(both, _mm256_set1_epi16(255));
        const __m512 least = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(group + 32)));
        const __m512 m = _mm512_mul_ps(least, _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(own)));
        as[0] = as[1] = meaning_of(n % 2 ? HIGH : LOW, _mm512_mul_ps(d, scales_of(group + 64 + 16 * n, false)), _mm512_sub_ps(_mm512_setzero_ps(), m));
        for (int c = 0; c < 8; c++) q[c] = _mm512_loadu_si512(group + SUPER_HEAD + 512 * (n / 2) + 64 * c);
    } else {
        for (int half = 0; half < 2; half++) {
            const __m512 scale = _mm512_mul_ps(d, scales_of(group + 64 + 32 * n + 16 * half, true));
            as[half] = meaning_of(SIX, scale, _mm512_mul_ps(scale, _mm512_set1_ps(-32)));
        }
        unpack_super(type, group, n, q);
    }
    for (int c = 0; c < 8; c++)
        for (int pair = 0; pair < 2; pair++) store_line(tile + 64 * (2 * c + pair), pairs_of(q[c], pair), as + c / 4);
}

/* Blocks of one or two times 16 rows from `row` on. */
static void unpack_rows(const struct interleaved *w, int64_t row, int groups, int64_t first, int64_t blocks, uint8_t *panel) {
    const int64_t bytes = bytes_of_group(w->type);
    for (int g = 0; g < groups; g++) {
        const uint8_t *from = w->data + (row / GROUP_ROWS + g) * w->blocks * bytes;
        for (int64_t i = first; i < first + blocks; i++, panel += TILE_BYTES) switch (w->type) {
                case Q4_0: unpack_group(Q4_0, from + i * bytes, panel); break;
                case Q4_1: unpack_group(Q4_1, from + i * bytes, panel); break;
                case Q8_0: unpack_group(Q8_0, from + i * bytes, panel); break;
                case Q4_K: unpack_part(Q4_K, from + i / 8 * bytes, (int)(i % 8), panel); break;
                default: unpack_part(Q6_K, from + i / 8 * bytes, (int)(i % 8), panel); break;
            }
    }
}

/* Where up to four tiles of sums go: numbers from a column to the next, to the tile of the next rows, and of the next columns. */
struct place {
    float *data;
    int64_t column, rows, columns;
};

/* One or two times 16 columns by one or two times 16 rows, added to `before` (tiles; 0: to nothing). */
INLINE void tiles(int columns, int rows, int64_t blocks, const uint8_t *a, const uint8_t *b, const float *before, struct place to) {
    const int64_t next = blocks * TILE_BYTES, stride = to.column * (int64_t)sizeof(float);
    if (before) {
        TILE_LOAD(0, before, 64);
        if (rows > 1) TILE_LOAD(1, before + TILE_SUMS, 64);
        if (columns > 1) TILE_LOAD(2, before + 2 * TILE_SUMS, 64);
        if (columns > 1 && rows > 1) TILE_LOAD(3, before + 3 * TILE_SUMS, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < blocks; i++, a += TILE_BYTES, b += TILE_BYTES) {
        TILE_STREAM(4, a);
        TILE_LOAD(6, b, 64);
        if (i < SIDE)
            for (int c = 0; c < columns; c++)
                for (int r = 0; r < rows; r++) __builtin_prefetch(to.data + c * to.columns + i * to.column + r * to.rows, 1);
        if (rows > 1) TILE_LOAD(7, b + next, 64);
        if (columns > 1) TILE_STREAM(5, a + next);
        _tile_dpbf16ps(0, 4, 6);
        if (rows > 1) _tile_dpbf16ps(1, 4, 7);
        if (columns > 1) _tile_dpbf16ps(2, 5, 6);
        if (columns > 1 && rows > 1) _tile_dpbf16ps(3, 5, 7);
    }
    TILE_STORE(0, to.data, stride);
    if (rows > 1) TILE_STORE(1, to.data + to.rows, stride);
    if (columns > 1) TILE_STORE(2, to.data + to.columns, stride);
    if (columns > 1 && rows > 1) TILE_STORE(3, to.data + to.columns + to.rows, stride);
}

INLINE void ask_for(const uint8_t *from, int64_t bytes) {
    for (const uint8_t *p = from; p < from + bytes; p += 64) _mm_prefetch((const char *)p, _MM_HINT_T1);
}

/* A panel by a part of the columns `from` to `till`. */
static void panel_by_columns(const struct wide *p, int64_t row, int64_t part, int64_t from, int64_t till, float *sums) {
    const int64_t first = part_from(p->blocks, p->parts, part);
    const int64_t blocks = part_from(p->blocks, p->parts, part + 1) - first;
    const int rows = p->weights->rows - row > SIDE ? 2 : 1;
    unpack_rows(p->weights, row, rows, first, blocks, p->panel);
    for (int64_t j = from; j < till; j += PANEL, sums += 4 * TILE_SUMS) {
        const int64_t left = p->columns - j;
        const uint8_t *a = p->activations + (first * p->groups + j / SIDE * blocks) * TILE_BYTES;
        const int columns = left > SIDE ? 2 : 1;
        const bool last = part + 1 == p->parts, fits = left >= columns * SIDE;
        float *out = p->result + j * p->ldc + row;
        const struct place to = !last  ? (struct place){sums, SIDE, TILE_SUMS, 2 * TILE_SUMS}
                                : fits ? (struct place){out, p->ldc, SIDE, SIDE * p->ldc}
                                       : (struct place){p->rest, PANEL, SIDE, SIDE * PANEL};
        const float *before = part ? sums : 0;
        if (columns == 2 && rows == 2) tiles(2, 2, blocks, a, p->panel, before, to);
        else if (columns == 2) tiles(2, 1, blocks, a, p->panel, before, to);
        else if (rows == 2) tiles(1, 2, blocks, a, p->panel, before, to);
        else tiles(1, 1, blocks, a, p->panel, before, to);
        if (last && !fits)
            for (int64_t i = 0; i < left; i++) memcpy(out + i * p->ldc, p->rest + i * PANEL, (size_t)rows * SIDE * sizeof(float));
    }
}

bool wide_product(const struct call *call, const struct interleaved *weights, const struct tensor *activations,
                  struct tensor *result) {
    const int64_t columns = activations->sizes[1], blocks = activations->sizes[0] / 32, threads = call->threads;
    const bool plain = activations->type == F32 && activations->strides[0] == sizeof(float) && activations->sizes[2] == 1 && activations->sizes[3] == 1;
    if (columns < WIDE_FROM || !plain || call->work_size < sizeof(void *) || !amx_allowed()) return false;
    const int64_t groups = (columns + SIDE - 1) / SIDE, pairs = (groups + 1) / 2, parts = (blocks + MOST_BLOCKS - 1) / MOST_BLOCKS;
    const int64_t panels = (weights->rows + PANEL - 1) / PANEL, panel = 2 * weights->blocks * bytes_of_group(weights->type);
    /* Units that are as large as they may be with four for each thread; where panels are too few, columns are cut. */
    int64_t each = panels / (4 * threads), cuts = 4 * threads / panels;
    each = each < 1 ? 1 : each > MOST_PANELS ? MOST_PANELS : each;
    cuts = cuts > groups / 4 ? groups / 4 : cuts;
    cuts = cuts < 1 ? 1 : cuts;
    const int64_t units = (panels + each - 1) / each, sums = parts > 1 ? each * pairs * 4 * TILE_BYTES : 0;
    uint8_t **shared = call->work;
    if (call->thread == 0) {
        *shared = room_for((size_t)(groups * blocks * TILE_BYTES + threads * sums));
        theirs.pool_set(call->pool, call->threads);
    }
    ggml_barrier(call->pool);
    uint8_t *room = *shared;
    if (!room) return false;
    ask_for(weights->data + call->thread % units * each * panel, each * panel);
    pack(activations, blocks, parts, groups * call->thread / threads, groups * (call->thread + 1) / threads, room);
    ggml_barrier(call->pool);
    const struct wide p = {weights, room, result->data, (float *)(room + groups * blocks * TILE_BYTES + call->thread * sums),
                           own_panel, own_rest, columns, groups, (int64_t)(result->strides[1] / sizeof(float)), blocks, parts};
    const struct tile_configuration before = tiles_begin();
    for (int64_t turn = call->thread; turn < units * cuts;) {
        const int64_t cut = turn / units, unit = turn % units;
        const int64_t from = pairs * cut / cuts * PANEL, till = pairs * (cut + 1) / cuts * PANEL;
        turn = theirs.pool_add(call->pool, 1);
        const uint8_t *next = weights->data + turn % units * each * panel;
        for (int64_t part = 0; part < parts; part++)
            for (int64_t i = 0; i < each && unit * each + i < panels; i++, next += panel / parts) {
                ask_for(next, panel / parts);
                panel_by_columns(&p, (unit * each + i) * PANEL, part, from, till, p.sums + i * pairs * 4 * TILE_SUMS);
            }
    }
    tiles_end(before);
    return true;
}
#else
bool wide_product(const struct call *call, const struct interleaved *weights, const struct tensor *activations,
                  struct tensor *result) {
    (void)call, (void)weights, (void)activations, (void)result;
    return false;
}
#endif
