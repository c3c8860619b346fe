/* Vectors of words in AVX2, with AVX-VNNI where the tier has it. */
#pragma once
#include "attention/words_x86.h"

typedef __m256i vi;
INLINE vi vi_zero(void) { return _mm256_setzero_si256(); }
INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vf vf_from_vi(vi x) { return _mm256_cvtepi32_ps(x); }

/* sums + a * b, of which each lane adds its pair's products. */
INLINE vi vi_dot_pairs(vi sums, vi a, vi b) {
#if defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(sums, a, b);
#elif defined(__AVX512VNNI__)
    return _mm256_dpwssd_epi32(sums, a, b);
#else
    return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
#endif
}
/* The same with one pair for all lanes. */
INLINE vi vi_dot_pair(vi sums, vi a, const int16_t *pair) {
    return vi_dot_pairs(sums, a, _mm256_set1_epi32((int)load_u32((const uint8_t *)pair)));
}

INLINE vi load_halves(const uint8_t *const *cells, int at) {
    const __m256i m = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(cells[0] + at)));
    return _mm256_inserti128_si256(m, _mm_loadu_si128((const __m128i *)(cells[4] + at)), 1);
}
/* 16 bytes of each of VF_LANES cells: lane n of to[j] has bytes 4 * j to 4 * j + 3 of cell n. */
INLINE void load_columns(const uint8_t *const *cells, int at, vi to[4]) {
    const vi a = load_halves(cells, at), b = load_halves(cells + 1, at);
    const vi c = load_halves(cells + 2, at), d = load_halves(cells + 3, at);
    const vi e = _mm256_unpacklo_epi32(a, b), f = _mm256_unpackhi_epi32(a, b);
    const vi g = _mm256_unpacklo_epi32(c, d), h = _mm256_unpackhi_epi32(c, d);
    to[0] = _mm256_unpacklo_epi64(e, g);
    to[1] = _mm256_unpackhi_epi64(e, g);
    to[2] = _mm256_unpacklo_epi64(f, h);
    to[3] = _mm256_unpackhi_epi64(f, h);
}

/* The 16-bit float of each of VF_LANES cells, `at` so many bytes behind its beginning. */
INLINE vf load_f16_of_cells(const uint8_t *const *cells, int at) {
    return _mm256_cvtph_ps(load_f16_of_eight(cells, at));
}

/* Words of the signed bytes 0 and 2 of each lane, and of 1 and 3. */
INLINE vi even_bytes(vi x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }
INLINE vi odd_bytes(vi x) { return _mm256_srai_epi16(x, 8); }
/* Nibbles of 0 to 15 less 8, from bit `shift` of each word on. */
INLINE vi nibbles_at(vi x, int shift) {
    const vi nibbles = _mm256_and_si256(_mm256_srli_epi16(x, shift), _mm256_set1_epi16(15));
    return _mm256_sub_epi16(nibbles, _mm256_set1_epi16(8));
}

/* WORD_LANES signed bytes. */
INLINE vi vi_load_i8(const uint8_t *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
/* WORD_LANES numbers of a block of nibbles, from number i of the block on. The low nibbles are the first 16 numbers. */
INLINE vi vi_load_i4(const uint8_t *p, int i) {
    return nibbles_at(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), i >= 16 ? 4 : 0);
}

/* Pairs of one word of a and one of b. unpair_sums brings lanes into the order of the words. */
INLINE void make_pairs(vi a, vi b, vi to[2]) {
    to[0] = _mm256_unpacklo_epi16(a, b);
    to[1] = _mm256_unpackhi_epi16(a, b);
}
INLINE void unpair_sums(const vi sums[2], vi to[2]) {
    to[0] = _mm256_permute2x128_si256(sums[0], sums[1], 0x20);
    to[1] = _mm256_permute2x128_si256(sums[0], sums[1], 0x31);
}

/* Store VF_LANES numbers rounded to words. */
INLINE void store_words(int16_t *p, vf x) {
    const __m256i wide = _mm256_cvtps_epi32(x);
    _mm_store_si128((__m128i *)p, _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
}
