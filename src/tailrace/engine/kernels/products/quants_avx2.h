/* Vectors of quants in AVX2, of eight of the 16 rows of a group, and pairs of minima. */
#pragma once
#include "loading/repack_layout.h"

typedef __m256i vq;
INLINE vq vq_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE __m256i broadcast_i32(const uint8_t *p) { return _mm256_set1_epi32((int)load_u32(p)); }
INLINE __m256 broadcast_f32(const uint8_t *p) { return _mm256_castsi256_ps(broadcast_i32(p)); }

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
INLINE vq vq_with_bit(vq others, vq bits, int from, int to) {
    const vq moved = from < to ? _mm256_slli_epi16(bits, to - from) : _mm256_srli_epi16(bits, from - to);
    return _mm256_or_si256(others, _mm256_and_si256(moved, _mm256_set1_epi8((char)(1 << to))));
}

/* Pair `n` of the bits of each byte as bits 4 and 5, and the bits of `others`. */
INLINE vq vq_with_top_two(vq others, vq pairs, int n) {
    const vq moved = n == 0   ? _mm256_slli_epi16(pairs, 4)
                     : n == 1 ? _mm256_slli_epi16(pairs, 2)
                     : n == 2 ? pairs
                              : _mm256_srli_epi16(pairs, 2);
    return _mm256_or_si256(others, _mm256_and_si256(moved, _mm256_set1_epi8(48)));
}

INLINE vq vq_decode(enum format format, vq codes) {
    const __m128i codebook = _mm_load_si128((const __m128i *)codebook_of(format));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(codebook), codes);
}

/* Nibbles are the low or the high ones of bytes; pairs of bits are pair `n` of bytes. */
INLINE vq vq_nibbles(vq v, bool high) {
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}
INLINE vq vq_bit_pairs(vq v, int n) { return _mm256_and_si256(_mm256_srli_epi16(v, 2 * n), _mm256_set1_epi8(3)); }

/* Place i of the order in which the vectors of 32 weights are read: where the low and the high nibbles of the same bytes
 * are two of them, one follows the other. */
INLINE int vector_at(enum format format, int i) {
    const enum encoding encoding = traits_of(format).encoding;
    const bool paired = encoding == CODES || (!is_super_block(format) && encoding != SIGNED_BYTES);
    return paired ? i / 2 + i % 2 * 4 : i;
}

/* Minima 2 v and 2 v + 1 of eight rows, as pairs of 16 bits, of a format with minima. */
INLINE __m256i load_min_pairs(enum format format, const uint8_t *group, int half, int v) {
    const uint8_t *at = group + (format == Q2_K ? SUPER_SCALES_AT : SUPER_MINS_AT) + 32 * v + 16 * half;
    const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)at));
    return format == Q2_K ? _mm256_srli_epi16(pairs, 4) : pairs;
}
