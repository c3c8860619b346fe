/* Products of weights in file order in AVX2: some rows by up to four tokens, whose activation scales file_order.c has
 * prepared. A block of weights is unpacked once for all tokens of the call.
 *
 * Without VNNI, bytes are multiplied in pairs whose sum has 16 bits. All of it is exact: see repacked_avx2.h. */
#pragma once
#include "formats.h"
#include "products/file_order_scales.h"

INLINE __m256i load_bytes_x32(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE __m256i load_twice(const uint8_t *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }

/* ---- Blocks of 32 weights ---------------------------------------------------------------------------------------- */

/* A byte of 1 for each of 32 bits. */
INLINE __m256i bits_as_bytes(uint32_t bits) {
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), spread);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit), _mm256_set1_epi8(1));
}

/* Whether quants are computed with as signed bytes, because unsigned they would be too large for 16-bit sums. */
INLINE bool are_signed(enum format format) {
    return traits_of(format).encoding == SIGNED_BYTES || traits_of(format).encoding == CODES;
}

/* The quants of a block. */
INLINE __m256i load_quants(enum format format, const uint8_t *block) {
    const struct format_traits t = traits_of(format);
    if (t.encoding == SIGNED_BYTES) return load_bytes_x32(block + t.quants_at);
    /* The low nibbles are the first 16 weights, the high ones the others. */
    __m256i v = _mm256_srlv_epi64(load_twice(block + t.quants_at), _mm256_setr_epi64x(0, 0, 4, 4));
    v = _mm256_and_si256(v, _mm256_set1_epi8(15));
    switch (t.encoding) {
        case NIBBLES: return v;
        case CODES: {
            const __m256i codebook = load_twice(codebook_of(format));
            return _mm256_sub_epi8(_mm256_shuffle_epi8(codebook, v), _mm256_set1_epi8((char)t.zero_point));
        }
        case NIBBLES_AND_FIFTH:
            return _mm256_or_si256(v, _mm256_slli_epi16(bits_as_bytes(load_u32(block + t.quants_at - 4)), 4));
        case SIGNED_BYTES:
        case TWO_BITS:
        case TWO_BITS_AND_THIRD:
        case FLOATS:
        case NIBBLES_AND_TOP_TWO: break; /* no block of 32 has these */
    }
    __builtin_unreachable();
}

/* Sums of pairs of products, which fit into 16 bits. */
INLINE __m256i dot_pairs(enum format format, __m256i quants, __m256i activations) {
    if (!are_signed(format)) return _mm256_maddubs_epi16(quants, activations);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(quants), _mm256_sign_epi8(activations, quants));
}

/* The sums of four rows by a token's block: one of the first 16 weights of each row, then one of the others. */
INLINE __m256i dot_rows(enum format format, const __m256i *q, __m256i activations) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i s[4];
    for (int r = 0; r < 4; r++) s[r] = dot_pairs(format, q[r], activations);
    if (!are_signed(format)) {
        /* Four pairs of at most 2 * 31 * 127 fit into 16 bits. */
        const __m256i t = _mm256_hadd_epi16(_mm256_hadd_epi16(s[0], s[1]), _mm256_hadd_epi16(s[2], s[3]));
        return _mm256_madd_epi16(t, ones);
    }
    for (int r = 0; r < 4; r++) s[r] = _mm256_madd_epi16(s[r], ones);
    return _mm256_hadd_epi32(_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
}

/* Four rows by up to four tokens. With fewer than four rows the last one is computed repeatedly. */
INLINE void block_tile(enum format format, int n_tokens, int64_t n_blocks, const uint8_t *weights, int64_t row_bytes,
                       const uint8_t *activations, int64_t token_bytes, const float *scales, float *out,
                       int64_t out_stride, int n_rows) {
    const struct format_traits t = traits_of(format);
    const uint8_t *row[4];
    for (int i = 0; i < 4; i++) row[i] = weights + (i < n_rows ? i : n_rows - 1) * row_bytes;
    __m256 a[4]; /* sums of four rows, of the first and the second half of each block */
    __m128 m[4]; /* sums of minima */
    for (int j = 0; j < n_tokens; j++) {
        a[j] = _mm256_setzero_ps();
        m[j] = _mm_setzero_ps();
    }
    for (int64_t i = 0; i < n_blocks; i++) {
        const int64_t o = i * t.bytes;
        prefetch_l1(weights + 4 * o + PREFETCH_BYTES);
        prefetch_l1(weights + 4 * o + PREFETCH_BYTES + 64);
        __m256i q[4];
        uint64_t mins = 0;
        for (int r = 0; r < 4; r++) {
            q[r] = load_quants(format, row[r] + o);
            if (t.has_min) mins |= load_f16_bits(row[r] + o + t.min_at) << 16 * r;
        }
        const __m128 half = load_four_scales(format, row, o), min = _mm_cvtph_ps(_mm_cvtsi64_si128((int64_t)mins));
        const __m256 d = _mm256_set_m128(half, half);
        for (int j = 0; j < n_tokens; j++) {
            const float *scale = scales + (j * n_blocks + i) * BLOCK_SCALES;
            const __m256i v =
                load_bytes_x32(activations + j * token_bytes + i * t.activation_bytes + (t.has_min ? 4 : 2));
            __m256i s = dot_rows(format, q, v);
            /* Signed quants have no zero point. That of the others is counted once for each row. */
            if (!t.has_min && !are_signed(format)) {
                const __m128i start = _mm_set1_epi32((int)load_u32((const uint8_t *)(scale + 1)));
                s = _mm256_add_epi32(s, _mm256_zextsi128_si256(start));
            }
            a[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), _mm256_mul_ps(d, _mm256_set1_ps(scale[0])), a[j]);
            if (t.has_min) m[j] = _mm_fmadd_ps(min, _mm_set1_ps(scale[1]), m[j]);
        }
    }
    for (int j = 0; j < n_tokens; j++) {
        float found[4];
        const __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a[j]), _mm256_extractf128_ps(a[j], 1));
        _mm_storeu_ps(found, _mm_add_ps(sum, m[j]));
        memcpy(out + j * out_stride, found, (size_t)n_rows * sizeof(float));
    }
}

/* ---- Super-blocks of 256 weights --------------------------------------------------------------------------------- */

/* The scales of a super-block, and the factors of the activations' sums. */
struct super_scales {
    __m256i scales[2]; /* 16-bit integers: in both halves scales 0 to 7, and 8 to 15 where there are 16 */
    __m256 min[2];
    float d;
};

INLINE struct super_scales load_super_scales(enum format format, const uint8_t *block) {
    struct super_scales s;
    s.d = load_f16(block + traits_of(format).scale_at);
    switch (format) {
        case Q4_K:
        case Q5_K: {
            s.scales[0] = s.scales[1] = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(six_bit_scales(block)));
            const __m256i mins = _mm256_cvtepu8_epi32(six_bit_mins(block));
            s.min[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(mins), _mm256_set1_ps(load_f16(block + 2)));
            s.min[1] = _mm256_setzero_ps();
            return s;
        }
        case Q2_K: {
            const __m128i both = _mm_loadu_si128((const __m128i *)block), four_bits = _mm_set1_epi8(15);
            const __m256i all = _mm256_cvtepu8_epi16(_mm_and_si128(both, four_bits));
            const __m128i mins = _mm_and_si128(_mm_srli_epi16(both, 4), four_bits);
            const __m256 dmin = _mm256_set1_ps(load_f16(block + offsetof(block_q2_K, dmin)));
            s.scales[0] = _mm256_permute4x64_epi64(all, 0x44);
            s.scales[1] = _mm256_permute4x64_epi64(all, 0xee);
            s.min[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(mins)), dmin);
            s.min[1] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(mins, 8))), dmin);
            return s;
        }
        case IQ4_XS: {
            const __m256i all = iq4_xs_scales(block);
            const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
            s.scales[0] = s.scales[1] = _mm256_broadcastsi128_si256(packed);
            s.min[0] = s.min[1] = _mm256_setzero_ps(); /* signed quants have no zero point */
            return s;
        }
        case Q3_K:
        case Q6_K: {
            const __m128i bytes = format == Q6_K
                                      ? _mm_loadu_si128((const __m128i *)(block + offsetof(block_q6_K, scales)))
                                      : q3_k_scale_bytes(block);
            const __m256i all = _mm256_cvtepi8_epi16(bytes);
            s.scales[0] = _mm256_permute4x64_epi64(all, 0x44);
            s.scales[1] = _mm256_permute4x64_epi64(all, 0xee);
            for (int i = 0; i < 2; i++) {
                const __m256i wide = _mm256_cvtepi8_epi32(i ? _mm_srli_si128(bytes, 8) : bytes);
                s.min[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(wide), _mm256_set1_ps(s.d));
            }
            return s;
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

/* The scales of weights 32 n to 32 n + 31, one for each pair. */
INLINE __m256i scales_of_part(enum format format, const struct super_scales *s, int n) {
    const bool fine = traits_of(format).weights_per_scale == 16;
    const int low = fine ? 2 * n % 8 : n, high = fine ? low + 1 : n;
    const int64_t first = (2 * low + 256 * (2 * low + 1)) * (int64_t)0x0001000100010001;
    const int64_t second = (2 * high + 256 * (2 * high + 1)) * (int64_t)0x0001000100010001;
    return _mm256_shuffle_epi8(s->scales[fine && n >= 4], _mm256_setr_epi64x(first, first, second, second));
}

/* Weights 32 n to 32 n + 31 of a super-block. */
INLINE __m256i load_super_quants(enum format format, const uint8_t *block, int n) {
    const __m256i low_nibbles = _mm256_set1_epi8(15);
    const uint8_t *quants = block + traits_of(format).quants_at;
    switch (traits_of(format).encoding) {
        case NIBBLES:
        case NIBBLES_AND_FIFTH: {
            const __m256i both = load_bytes_x32(quants + 32 * (n / 2));
            const __m256i v = _mm256_and_si256(n % 2 ? _mm256_srli_epi16(both, 4) : both, low_nibbles);
            if (traits_of(format).encoding == NIBBLES) return v;
            const __m256i fifth_bits = _mm256_srli_epi16(load_bytes_x32(block + offsetof(block_q5_K, qh)), n);
            return _mm256_or_si256(v, _mm256_slli_epi16(_mm256_and_si256(fifth_bits, _mm256_set1_epi8(1)), 4));
        }
        case NIBBLES_AND_TOP_TWO: {
            const __m256i both = load_bytes_x32(quants + 64 * (n / 4) + 32 * (n % 2));
            const __m256i v = _mm256_and_si256(n % 4 >= 2 ? _mm256_srli_epi16(both, 4) : both, low_nibbles);
            const uint8_t *top = block + offsetof(block_q6_K, qh) + 32 * (n / 4);
            const __m256i h = _mm256_srli_epi16(load_bytes_x32(top), 2 * (n % 4));
            return _mm256_or_si256(v, _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(3)), 4));
        }
        case CODES: { /* 16 low nibbles come first */
            const __m256i twice = _mm256_srlv_epi64(load_twice(quants + 16 * n), _mm256_setr_epi64x(0, 0, 4, 4));
            const __m256i codes =
                _mm256_shuffle_epi8(load_twice(codebook_of(format)), _mm256_and_si256(twice, low_nibbles));
            return _mm256_sub_epi8(codes, _mm256_set1_epi8((char)traits_of(format).zero_point));
        }
        case TWO_BITS:
        case TWO_BITS_AND_THIRD: {
            const __m256i pairs = _mm256_srli_epi16(load_bytes_x32(quants + 32 * (n / 4)), 2 * (n % 4));
            const __m256i low = _mm256_and_si256(pairs, _mm256_set1_epi8(3));
            if (traits_of(format).encoding == TWO_BITS) return low;
            const __m256i thirds = _mm256_srli_epi16(load_bytes_x32(block + offsetof(block_q3_K, hmask)), n);
            return _mm256_or_si256(low, _mm256_slli_epi16(_mm256_and_si256(thirds, _mm256_set1_epi8(1)), 2));
        }
        case FLOATS:
        case SIGNED_BYTES: break; /* no super-block has these */
    }
    __builtin_unreachable();
}

/* One row by up to four tokens. Scales are integers, so a super-block's sum is exact. */
INLINE void super_tile(enum format format, int n_tokens, int64_t n_blocks, const uint8_t *block,
                       const uint8_t *activations, int64_t token_bytes, const float *scales, float *out,
                       int64_t out_stride) {
    const int block_bytes = traits_of(format).bytes;
    const bool fine = traits_of(format).weights_per_scale == 16; /* 16 scales, else 8 */
    __m256 a[4];
    for (int j = 0; j < n_tokens; j++) a[j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, block += block_bytes) {
        for (int line = 0; line < block_bytes; line += 64) prefetch_l1(block + PREFETCH_BYTES + line);
        const struct super_scales s = load_super_scales(format, block);
        __m256i part[4];
        for (int j = 0; j < n_tokens; j++) part[j] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++) {
            const __m256i q = load_super_quants(format, block, n), scale = scales_of_part(format, &s, n);
            for (int j = 0; j < n_tokens; j++) {
                const uint8_t *quants =
                    activations + j * token_bytes + i * (int64_t)sizeof(block_q8_K) + offsetof(block_q8_K, qs);
                const __m256i pairs = dot_pairs(format, q, load_bytes_x32(quants + 32 * n));
                part[j] = _mm256_add_epi32(part[j], _mm256_madd_epi16(pairs, scale));
            }
        }
        for (int j = 0; j < n_tokens; j++) {
            const float *prepared = scales + (j * n_blocks + i) * SUPER_SCALES;
            a[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(part[j]), _mm256_set1_ps(s.d * prepared[0]), a[j]);
            a[j] = _mm256_fmadd_ps(s.min[0], _mm256_loadu_ps(prepared + 1), a[j]);
            if (fine) a[j] = _mm256_fmadd_ps(s.min[1], _mm256_loadu_ps(prepared + 9), a[j]);
        }
    }
    for (int j = 0; j < n_tokens; j++) out[j * out_stride] = vf_reduce_add(a[j]);
}
