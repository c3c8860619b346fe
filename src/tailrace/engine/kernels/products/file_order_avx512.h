/* Products of weights in file order in AVX-512 VNNI: some rows by up to four tokens, whose activation scales
 * file_order.c has prepared. A block of weights is unpacked once for all tokens of the call. */
#pragma once
#include "formats.h"
#include "products/file_order_scales.h"

INLINE float sum_lanes(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float sum_low(__m512 v) { return sum_lanes(_mm512_castps512_ps256(v)); }
INLINE float sum_high(__m512 v) { return sum_lanes(_mm512_extractf32x8_ps(v, 1)); }
INLINE __m512i load_twice(const uint8_t *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p)); }

/* ---- Blocks of 32 weights ---------------------------------------------------------------------------------------- */

/* The unsigned quants of a block of one row (lower half) and of the same block of another row. */
INLINE __m512i load_quants(enum format format, const uint8_t *one, const uint8_t *other) {
    const int at = traits_of(format).quants_at;
    const __m128i *p = (const __m128i *)(one + at), *q = (const __m128i *)(other + at);
    /* The low nibbles are the first 16 weights, the high ones the others. */
    __m512i v = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(_mm_loadu_si128(p)), 0xff00, _mm_loadu_si128(q));
    v = _mm512_srlv_epi64(v, _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0));
    v = _mm512_and_si512(v, _mm512_set1_epi8(15));
    switch (traits_of(format).encoding) {
        case NIBBLES: return v;
        case CODES:
            return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)codebook_of(format))), v);
        case NIBBLES_AND_FIFTH: {
            const uint64_t fifth_bits = load_u32(one + at - 4) | (uint64_t)load_u32(other + at - 4) << 32;
            return _mm512_mask_add_epi8(v, fifth_bits, v, _mm512_set1_epi8(16));
        }
        case SIGNED_BYTES:
            v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
            v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)q), 1);
            return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
        case TWO_BITS:
        case TWO_BITS_AND_THIRD:
        case FLOATS:
        case NIBBLES_AND_TOP_TWO: break; /* no block of 32 has these */
    }
    __builtin_unreachable();
}

/* Four rows by up to four tokens. With fewer than four rows the last one is computed repeatedly. */
INLINE void block_tile(enum format format, int n_tokens, int64_t n_blocks, const uint8_t *weights, int64_t row_bytes,
                       const uint8_t *activations, int64_t token_bytes, const float *scales, float *out,
                       int64_t out_stride, int n_rows) {
    const struct format_traits t = traits_of(format);
    const uint8_t *row[4];
    for (int i = 0; i < 4; i++) row[i] = weights + (i < n_rows ? i : n_rows - 1) * row_bytes;
    __m512 a[4], b[4]; /* sums of rows 0 and 1, of rows 2 and 3 */
    __m256 m[4];       /* sums of minima */
    for (int j = 0; j < n_tokens; j++) {
        a[j] = b[j] = _mm512_setzero_ps();
        m[j] = _mm256_setzero_ps();
    }
    const int s = t.has_min ? 2 : 1; /* every second lane of the scales is a minimum */
    const __m512i first = _mm512_set_epi32(s, s, s, s, s, s, s, s, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(2 * s));
    for (int64_t i = 0; i < n_blocks; i++) {
        const int64_t o = i * t.bytes;
        prefetch_l1(weights + 4 * o + PREFETCH_BYTES);
        prefetch_l1(weights + 4 * o + PREFETCH_BYTES + 64);
        const __m512i q01 = load_quants(format, row[0] + o, row[1] + o);
        const __m512i q23 = load_quants(format, row[2] + o, row[3] + o);
        __m256 d;
        if (t.has_min) {
            d = _mm256_cvtph_ps(_mm_set_epi32((int)load_u32(row[3] + o), (int)load_u32(row[2] + o),
                                              (int)load_u32(row[1] + o), (int)load_u32(row[0] + o)));
        } else {
            d = _mm256_castps128_ps256(load_four_scales(format, row, o));
        }
        const __m512 d01 = _mm512_permutexvar_ps(first, _mm512_castps256_ps512(d));
        const __m512 d23 = _mm512_permutexvar_ps(second, _mm512_castps256_ps512(d));
        for (int j = 0; j < n_tokens; j++) {
            const float *scale = scales + (j * n_blocks + i) * BLOCK_SCALES;
            const __m512i v = load_twice(activations + j * token_bytes + i * t.activation_bytes + (t.has_min ? 4 : 2));
            /* The zero point's share of the sum, in one lane of either row. */
            const __m512i start = t.has_min
                                      ? _mm512_setzero_si512()
                                      : _mm512_maskz_set1_epi32(0x0101, (int)load_u32((const uint8_t *)(scale + 1)));
            const __m512 e = _mm512_set1_ps(scale[0]);
            a[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q01, v)), _mm512_mul_ps(d01, e), a[j]);
            b[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q23, v)), _mm512_mul_ps(d23, e), b[j]);
            if (t.has_min) m[j] = _mm256_fmadd_ps(d, _mm256_set1_ps(scale[1]), m[j]);
        }
    }
    for (int j = 0; j < n_tokens; j++) {
        float mins[8];
        _mm256_storeu_ps(mins, m[j]);
        const float found[4] = {sum_low(a[j]) + mins[1], sum_high(a[j]) + mins[3], sum_low(b[j]) + mins[5],
                                sum_high(b[j]) + mins[7]};
        memcpy(out + j * out_stride, found, (size_t)n_rows * sizeof(float));
    }
}

/* ---- Super-blocks of 256 weights --------------------------------------------------------------------------------- */

/* The scales of a super-block (8 of 32 weights, or 16 of 16), and the factors of the activations' sums. */
INLINE void load_super_scales(enum format format, const uint8_t *block, __m512 *scale, __m512 *min) {
    switch (format) {
        case Q4_K:
        case Q5_K: {
            const __m512i s = _mm512_cvtepu8_epi32(six_bit_scales(block));
            const __m512i m = _mm512_cvtepu8_epi32(six_bit_mins(block));
            *scale = _mm512_mul_ps(_mm512_cvtepi32_ps(s), _mm512_set1_ps(load_f16(block)));
            *min = _mm512_mul_ps(_mm512_cvtepi32_ps(m), _mm512_set1_ps(load_f16(block + 2)));
            return;
        }
        case Q2_K: {
            const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)block));
            const __m512 s = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
            const __m512 m = _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4));
            *scale = _mm512_mul_ps(s, _mm512_set1_ps(load_f16(block + offsetof(block_q2_K, d))));
            *min = _mm512_mul_ps(m, _mm512_set1_ps(load_f16(block + offsetof(block_q2_K, dmin))));
            return;
        }
        case Q3_K: {
            const __m512i s = _mm512_cvtepi8_epi32(q3_k_scale_bytes(block));
            const __m512 d = _mm512_set1_ps(load_f16(block + offsetof(block_q3_K, d)));
            *scale = *min = _mm512_mul_ps(_mm512_cvtepi32_ps(s), d);
            return;
        }
        case IQ4_XS: {
            const __m512 s = _mm512_cvtepi32_ps(_mm512_zextsi256_si512(iq4_xs_scales(block)));
            *scale = *min = _mm512_mul_ps(s, _mm512_set1_ps(load_f16(block)));
            return;
        }
        case Q6_K: {
            const __m128i scales = _mm_loadu_si128((const __m128i *)(block + offsetof(block_q6_K, scales)));
            const __m512 s = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales));
            *scale = *min = _mm512_mul_ps(s, _mm512_set1_ps(load_f16(block + offsetof(block_q6_K, d))));
            return;
        }
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

/* Weights 64 g to 64 g + 63 of a super-block, unsigned. */
INLINE __m512i load_super_quants(enum format format, const uint8_t *block, int g) {
    const __m512i low_nibbles = _mm512_set1_epi8(15), halves = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
    const uint8_t *quants = block + traits_of(format).quants_at;
    switch (traits_of(format).encoding) {
        case NIBBLES: return _mm512_and_si512(_mm512_srlv_epi64(load_twice(quants + 32 * g), halves), low_nibbles);
        case NIBBLES_AND_FIFTH: {
            const __m512i v = _mm512_and_si512(_mm512_srlv_epi64(load_twice(quants + 32 * g), halves), low_nibbles);
            const __m512i by = _mm512_set_epi64(2 * g + 1, 2 * g + 1, 2 * g + 1, 2 * g + 1, 2 * g, 2 * g, 2 * g, 2 * g);
            const __m512i fifth_bits = _mm512_srlv_epi64(load_twice(block + offsetof(block_q5_K, qh)), by);
            return _mm512_or_si512(v, _mm512_slli_epi16(_mm512_and_si512(fifth_bits, _mm512_set1_epi8(1)), 4));
        }
        case NIBBLES_AND_TOP_TWO: {
            __m512i v = _mm512_loadu_si512(quants + 64 * (g / 2));
            v = _mm512_and_si512(g % 2 ? _mm512_srli_epi16(v, 4) : v, low_nibbles);
            const int shift = g % 2 * 4;
            const __m512i by = _mm512_set_epi64(shift + 2, shift + 2, shift + 2, shift + 2, shift, shift, shift, shift);
            const __m512i h = _mm512_srlv_epi64(load_twice(block + offsetof(block_q6_K, qh) + 32 * (g / 2)), by);
            return _mm512_or_si512(v, _mm512_slli_epi16(_mm512_and_si512(h, _mm512_set1_epi8(3)), 4));
        }
        case CODES: { /* of two blocks of 32 */
            const __m512i twice =
                _mm512_permutexvar_epi64(_mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0), load_twice(quants + 32 * g));
            const __m512i by = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
            const __m512i codebook = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)codebook_of(format)));
            return _mm512_shuffle_epi8(codebook, _mm512_and_si512(_mm512_srlv_epi64(twice, by), low_nibbles));
        }
        case TWO_BITS:
        case TWO_BITS_AND_THIRD: {
            const int shift = g % 2 * 4;
            const __m512i by = _mm512_set_epi64(shift + 2, shift + 2, shift + 2, shift + 2, shift, shift, shift, shift);
            const __m512i v = _mm512_srlv_epi64(load_twice(quants + 32 * (g / 2)), by);
            const __m512i low = _mm512_and_si512(v, _mm512_set1_epi8(3));
            if (traits_of(format).encoding == TWO_BITS) return low;
            const __m512i which =
                _mm512_set_epi64(2 * g + 1, 2 * g + 1, 2 * g + 1, 2 * g + 1, 2 * g, 2 * g, 2 * g, 2 * g);
            const __m512i thirds = _mm512_srlv_epi64(load_twice(block + offsetof(block_q3_K, hmask)), which);
            return _mm512_or_si512(low, _mm512_slli_epi16(_mm512_and_si512(thirds, _mm512_set1_epi8(1)), 2));
        }
        case FLOATS:
        case SIGNED_BYTES: break; /* no super-block has these */
    }
    __builtin_unreachable();
}

/* One row by up to four tokens. */
INLINE void super_tile(enum format format, int n_tokens, int64_t n_blocks, const uint8_t *block,
                       const uint8_t *activations, int64_t token_bytes, const float *scales, float *out,
                       int64_t out_stride) {
    const int block_bytes = traits_of(format).bytes;
    const bool fine = traits_of(format).weights_per_scale == 16; /* 16 scales, else 8 */
    __m512 a[4];
    for (int j = 0; j < n_tokens; j++) a[j] = _mm512_setzero_ps();
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i spread = fine ? _mm512_srli_epi32(lanes, 2) : _mm512_srli_epi32(lanes, 3);
    for (int64_t i = 0; i < n_blocks; i++, block += block_bytes) {
        for (int line = 0; line < block_bytes; line += 64) prefetch_l1(block + PREFETCH_BYTES + line);
        __m512 scale, min, part[4];
        load_super_scales(format, block, &scale, &min);
        for (int j = 0; j < n_tokens; j++) part[j] = _mm512_setzero_ps();
        for (int g = 0; g < 4; g++) {
            const __m512i q = load_super_quants(format, block, g);
            const __m512i which = _mm512_add_epi32(spread, _mm512_set1_epi32((fine ? 4 : 2) * g));
            const __m512 s = _mm512_permutexvar_ps(which, scale);
            for (int j = 0; j < n_tokens; j++) {
                const uint8_t *quants =
                    activations + j * token_bytes + i * (int64_t)sizeof(block_q8_K) + offsetof(block_q8_K, qs);
                const __m512i v = _mm512_loadu_si512(quants + 64 * g);
                part[j] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), q, v)), s, part[j]);
            }
        }
        for (int j = 0; j < n_tokens; j++) {
            const float *prepared = scales + (j * n_blocks + i) * SUPER_SCALES;
            a[j] = _mm512_fmadd_ps(part[j], _mm512_set1_ps(prepared[0]), a[j]);
            a[j] = _mm512_fmadd_ps(min, _mm512_loadu_ps(prepared + 1), a[j]);
        }
    }
    for (int j = 0; j < n_tokens; j++) out[j * out_stride] = sum_low(a[j]) + sum_high(a[j]);
}
