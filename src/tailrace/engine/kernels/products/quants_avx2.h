/* Reads groups of repacked weights in AVX2: quants, scales and minima of eight of the 16 rows. */
#pragma once
#include "loading/repack_layout.h"

INLINE __m256i load_x32(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE __m256i broadcast_i32(const uint8_t *p) { return _mm256_set1_epi32((int)load_u32(p)); }
INLINE __m256 broadcast_f32(const uint8_t *p) { return _mm256_castsi256_ps(broadcast_i32(p)); }
INLINE __m256 load_f16x8(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

/* ---- Quants ------------------------------------------------------------------------------------------------------ */

/* The greatest quant of a format, unsigned. */
INLINE int max_quant(enum format format) {
    switch (traits_of(format).encoding) {
        case TWO_BITS: return 3;
        case TWO_BITS_AND_THIRD: return 7;
        case NIBBLES: return 15;
        case CODES: return format == MXFP4 ? 24 : 255;
        case NIBBLES_AND_FIFTH: return 31;
        case NIBBLES_AND_TOP_TWO: return 63;
        case SIGNED_BYTES: return 255;
        case FLOATS: break; /* no quants */
    }
    __builtin_unreachable();
}

/* Bit `from` of each byte, 0 to 7, as bit `to`, and the bits of `others`. */
INLINE __m256i with_bit(__m256i others, __m256i bits, int from, int to) {
    const __m256i moved = from < to ? _mm256_slli_epi16(bits, to - from) : _mm256_srli_epi16(bits, from - to);
    return _mm256_or_si256(others, _mm256_and_si256(moved, _mm256_set1_epi8((char)(1 << to))));
}

INLINE __m256i codebook_x2(enum format format) {
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)codebook_of(format)));
}

/* Nibbles are the low or the high ones of bytes; pairs of bits are pair `n` of bytes. */
INLINE __m256i nibbles_of(__m256i v, bool high) {
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}
INLINE __m256i bit_pairs_of(__m256i v, int n) {
    return _mm256_and_si256(_mm256_srli_epi16(v, 2 * n), _mm256_set1_epi8(3));
}

/* Vector c of the quants of a block of 32: weights 4 c to 4 c + 3 of eight rows, unsigned. */
INLINE __m256i unpack_block_quants(enum format format, const uint8_t *group, int half, int c) {
    const uint8_t *quants = group + quants_at(format) + 32 * half;
    if (traits_of(format).encoding == SIGNED_BYTES) return load_x32(quants + 64 * c); /* unsigned in the group */
    const __m256i nibbles = nibbles_of(load_x32(quants + 64 * (c % 4)), c >= 4);
    switch (traits_of(format).encoding) {
        case NIBBLES: return nibbles;
        case CODES: return _mm256_shuffle_epi8(codebook_x2(format), nibbles);
        case NIBBLES_AND_FIFTH: return with_bit(nibbles, load_x32(quants - 64), c, 4);
        case SIGNED_BYTES:
        case FLOATS:
        case TWO_BITS:
        case TWO_BITS_AND_THIRD:
        case NIBBLES_AND_TOP_TWO: break; /* no block of 32 has these */
    }
    __builtin_unreachable();
}

/* The same of weights 32 n to 32 n + 31 of a super-block, n up to 3. */
INLINE __m256i unpack_super_quants(enum format format, const uint8_t *group, int half, int n, int c) {
    const uint8_t *quants = group + super_quants_at(format) + 32 * half;
    switch (traits_of(format).encoding) {
        case TWO_BITS: return bit_pairs_of(load_x32(quants + 64 * c), n % 4);
        case TWO_BITS_AND_THIRD: {
            const __m256i low = bit_pairs_of(load_x32(quants + 256 + 64 * c), n % 4);
            return with_bit(low, load_x32(quants + 64 * (n % 4)), c, 2);
        }
        case NIBBLES: return nibbles_of(load_x32(quants + 512 * (n / 2) + 64 * c), n % 2);
        case CODES: {
            const __m256i codes = nibbles_of(load_x32(quants + 256 * n + 64 * (c % 4)), c >= 4);
            return _mm256_shuffle_epi8(codebook_x2(format), codes);
        }
        case NIBBLES_AND_FIFTH: {
            quants += 640 * (n / 2);
            return with_bit(nibbles_of(load_x32(quants + 128 + 64 * c), n % 2), load_x32(quants + 64 * (n % 2)), c, 4);
        }
        case NIBBLES_AND_TOP_TWO: {
            const __m256i v = nibbles_of(load_x32(quants + 512 + 512 * (n % 2) + 64 * c), n % 4 >= 2);
            const __m256i high = load_x32(quants + 64 * c);
            const __m256i h = n % 4 == 0   ? _mm256_slli_epi16(high, 4)
                              : n % 4 == 1 ? _mm256_slli_epi16(high, 2)
                              : n % 4 == 2 ? high
                                           : _mm256_srli_epi16(high, 2);
            return _mm256_or_si256(v, _mm256_and_si256(h, _mm256_set1_epi8(48)));
        }
        case FLOATS:
        case SIGNED_BYTES: break; /* no super-block has these */
    }
    __builtin_unreachable();
}

INLINE __m256i unpack_quants(enum format format, const uint8_t *group, int half, int n, int c) {
    return is_super_block(format) ? unpack_super_quants(format, group, half, n, c)
                                  : unpack_block_quants(format, group, half, c);
}

/* Bytes of a group from the quants of part 0 to those of part n, which is 0 or 4, of a super-block. */
INLINE int64_t part_quants(enum format format, int n) {
    return n / 4 * (group_bytes(format) - super_quants_at(format)) / 2;
}

/* Place i of the order in which the vectors of 32 weights are read: where the low and the high nibbles of the same bytes
 * are two of them, one follows the other. */
INLINE int vector_at(enum format format, int i) {
    const enum encoding encoding = traits_of(format).encoding;
    const bool paired = encoding == CODES || (!is_super_block(format) && encoding != SIGNED_BYTES);
    return paired ? i / 2 + i % 2 * 4 : i;
}

/* ---- Scales and minima ------------------------------------------------------------------------------------------- */

/* The scales of eight rows of a group of blocks of 32. */
INLINE __m256 load_group_scales(enum format format, const uint8_t *group, int half) {
    return traits_of(format).scale_bytes == 1 ? load_e8m0x8(group + 8 * half) : load_f16x8(group + 16 * half);
}

/* The scales of eight rows, which are bytes. */
INLINE __m256 load_scales_x8(const uint8_t *scales, bool is_signed) {
    const __m128i v = _mm_loadl_epi64((const __m128i *)scales);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(v) : _mm256_cvtepu8_epi32(v));
}

/* The scales of weights 32 n to 32 n + 31 of eight rows: of the first 16 weights, and of the others. */
INLINE void load_part_scales(enum format format, const uint8_t *group, int half, int n, __m256 scale[2]) {
    const uint8_t *scales = group + SUPER_SCALES_AT;
    switch (format) {
        case Q2_K: {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(scales + 32 * n + 16 * half));
            const __m256i pairs = _mm256_cvtepu8_epi16(bytes), four_bits = _mm256_set1_epi32(15);
            scale[0] = _mm256_cvtepi32_ps(_mm256_and_si256(pairs, four_bits));
            scale[1] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(pairs, 16), four_bits));
            return;
        }
        case Q3_K:
        case Q6_K:
            scale[0] = load_scales_x8(scales + 32 * n + 8 * half, true);
            scale[1] = load_scales_x8(scales + 32 * n + 16 + 8 * half, true);
            return;
        case Q4_K:
        case Q5_K:
        case IQ4_XS: scale[0] = scale[1] = load_scales_x8(scales + 16 * n + 8 * half, format == IQ4_XS); return;
        case Q4_0:
        case Q4_1:
        case Q5_0:
        case Q5_1:
        case Q8_0:
        case IQ4_NL:
        case MXFP4:
        case F16:
        case BF16: break; /* no super-blocks */
    }
    __builtin_unreachable();
}

/* Minima 2 v and 2 v + 1 of eight rows, as pairs of 16 bits, of a format with minima. */
INLINE __m256i load_min_pairs(enum format format, const uint8_t *group, int half, int v) {
    const uint8_t *at = group + (format == Q2_K ? SUPER_SCALES_AT : SUPER_MINS_AT) + 32 * v + 16 * half;
    const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)at));
    return format == Q2_K ? _mm256_srli_epi16(pairs, 4) : pairs;
}
