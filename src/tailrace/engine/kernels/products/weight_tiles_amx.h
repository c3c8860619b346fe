/* Repacked weights as AMX tiles of bf16, with their scales applied: each format's conversion. panels_amx.c multiplies
 * the tiles. */
#pragma once
#include "products/repacked_avx512.h"
#include "products/panels_amx.h"

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
    const __m512 d = load_group_scales(format, group, 0);
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
    load_part_scales(format, group, 0, n, scale);
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
