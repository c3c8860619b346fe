/* Vectors of words in AVX-512 VNNI. */
#pragma once
#include "attention/words_x86.h"

typedef __m512i vi;
INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vf vf_from_vi(vi x) { return _mm512_cvtepi32_ps(x); }

/* sums + a * b, of which each lane adds its pair's products. */
INLINE vi vi_dot_pairs(vi sums, vi a, vi b) { return _mm512_dpwssd_epi32(sums, a, b); }
/* The same with one pair for all lanes, as an operand in memory: a load into a register would be an instruction more. */
INLINE vi vi_dot_pair(vi sums, vi a, const int16_t *pair) {
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(a), "m"(*(const int16_t(*)[2])pair));
    return sums;
}

INLINE vi load_quarters(const uint8_t *const *cells, int at) {
    __m512i m = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(cells[0] + at)));
    m = _mm512_inserti32x4(m, _mm_loadu_si128((const __m128i *)(cells[4] + at)), 1);
    m = _mm512_inserti32x4(m, _mm_loadu_si128((const __m128i *)(cells[8] + at)), 2);
    return _mm512_inserti32x4(m, _mm_loadu_si128((const __m128i *)(cells[12] + at)), 3);
}
/* 16 bytes of each of VF_LANES cells: lane n of to[j] has bytes 4 * j to 4 * j + 3 of cell n. */
INLINE void load_columns(const uint8_t *const *cells, int at, vi to[4]) {
    const vi a = load_quarters(cells, at), b = load_quarters(cells + 1, at);
    const vi c = load_quarters(cells + 2, at), d = load_quarters(cells + 3, at);
    const vi e = _mm512_unpacklo_epi32(a, b), f = _mm512_unpackhi_epi32(a, b);
    const vi g = _mm512_unpacklo_epi32(c, d), h = _mm512_unpackhi_epi32(c, d);
    to[0] = _mm512_unpacklo_epi64(e, g);
    to[1] = _mm512_unpackhi_epi64(e, g);
    to[2] = _mm512_unpacklo_epi64(f, h);
    to[3] = _mm512_unpackhi_epi64(f, h);
}

/* The 16-bit float of each of VF_LANES cells, `at` so many bytes behind its beginning. */
INLINE vf load_f16_of_cells(const uint8_t *const *cells, int at) {
    return _mm512_cvtph_ps(_mm256_set_m128i(load_f16_of_eight(cells + 8, at), load_f16_of_eight(cells, at)));
}

/* Words of the signed bytes 0 and 2 of each lane, and of 1 and 3. */
INLINE vi even_bytes(vi x) { return _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8); }
INLINE vi odd_bytes(vi x) { return _mm512_srai_epi16(x, 8); }
/* Nibbles of 0 to 15 less 8, from bit `shift` of each word on. */
INLINE vi nibbles_at(vi x, int shift) {
    const vi nibbles = _mm512_and_si512(_mm512_srli_epi16(x, (unsigned)shift), _mm512_set1_epi16(15));
    return _mm512_sub_epi16(nibbles, _mm512_set1_epi16(8));
}

/* WORD_LANES signed bytes. */
INLINE vi vi_load_i8(const uint8_t *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p)); }
/* WORD_LANES numbers of a block of nibbles, from number i of the block on. The low nibbles are the first 16 numbers. */
INLINE vi vi_load_i4(const uint8_t *p, int i) {
    (void)i; /* a vector has a whole block */
    const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(bytes), _mm256_srli_epi16(bytes, 4), 1);
    return _mm512_sub_epi16(_mm512_and_si512(both, _mm512_set1_epi16(15)), _mm512_set1_epi16(8));
}

/* Pairs of one word of a and one of b. unpair_sums brings lanes into the order of the words. */
INLINE void make_pairs(vi a, vi b, vi to[2]) {
    to[0] = _mm512_unpacklo_epi16(a, b);
    to[1] = _mm512_unpackhi_epi16(a, b);
}
INLINE void unpair_sums(const vi sums[2], vi to[2]) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    to[0] = _mm512_permutex2var_epi64(sums[0], first, sums[1]);
    to[1] = _mm512_permutex2var_epi64(sums[0], second, sums[1]);
}

/* Store VF_LANES numbers rounded to words. */
INLINE void store_words(int16_t *p, vf x) {
    _mm256_store_si256((__m256i *)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
}
