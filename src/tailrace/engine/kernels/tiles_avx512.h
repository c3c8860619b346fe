/* Tiles of products in AVX-512 VNNI: some rows by up to four columns, whose scales gemm.c has made ready. */
#pragma once
#include "formats.h"

#define AHEAD 8192                /* bytes; 4096 and 16384 gave 0.95 and 0.97 of its speed */

INLINE float sum(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float low(__m512 v) { return sum(_mm512_castps512_ps256(v)); }
INLINE float high(__m512 v) { return sum(_mm512_extractf32x8_ps(v, 1)); }
INLINE __m512i twice(const uint8_t *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void ask_for(const uint8_t *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

/* ---- Blocks of 32 weights ----------------------------------------------------------------------------------------- */

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

/* ---- Super-blocks of 256 weights ---------------------------------------------------------------------------------- */

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
