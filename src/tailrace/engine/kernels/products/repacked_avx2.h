/* Products of repacked weights in AVX2: a panel of 16 rows, one a lane, by up to eight tokens.
 *
 * There are 16 registers of 32 bytes, so a vector of a group is two: eight rows are computed, then the other eight.
 * Without VNNI, bytes are multiplied in pairs whose sum has 16 bits. As many pairs are added up in 16 bits as can't
 * overflow, and then widened. Bytes of weights are split into nibbles for that. All of it is exact. */
#pragma once
#include "loading/repack_layout.h"
#include "products/activations.h"
#include "products/panels.h"

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
#define HAS_DOT_U8X4 1
#else
#define HAS_DOT_U8X4 0
#endif

/* Numbers of tokens for which the compiler makes a tile of its own, and the number of any other tile. Of several tokens,
 * sums are in memory: the registers hold the weights. */
#define CONSTANT_TOKENS(X) X(1)
#define OTHER_TOKENS(n)    (n)

INLINE void prefetch_weights(enum weights_from from, const uint8_t *weights) {
    if (from == CACHE) _mm_prefetch((const char *)weights + 10240, _MM_HINT_T0);
    else _mm_prefetch((const char *)weights + 3072, _MM_HINT_T1);
}

INLINE __m256i load_x32(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE __m256i broadcast_i32(const uint8_t *p) { return _mm256_set1_epi32((int)load_u32(p)); }
INLINE __m256 broadcast_f32(const uint8_t *p) { return _mm256_castsi256_ps(broadcast_i32(p)); }
INLINE __m256 load_f16x8(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

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
    }
    __builtin_unreachable();
}

/* Sums of pairs that fit into 16 bits: quants up to `max`, activations up to 127. */
INLINE int pairs_in_16_bits(int max) { return 32767 / (2 * 127 * max); }

#if HAS_DOT_U8X4
/* sums += four unsigned bytes of each lane . the same four signed bytes. */
INLINE __m256i dot_u8x4(__m256i sums, __m256i weights, __m256i quants) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sums, weights, quants);
#else
    return _mm256_dpbusd_epi32(sums, weights, quants);
#endif
}
#endif

/* Bit `from` of each byte, 0 to 7, as bit `to`, and the bits of `others`. */
INLINE __m256i with_bit(__m256i others, __m256i bits, int from, int to) {
    const __m256i moved = from < to ? _mm256_slli_epi16(bits, to - from) : _mm256_srli_epi16(bits, from - to);
    return _mm256_or_si256(others, _mm256_and_si256(moved, _mm256_set1_epi8((char)(1 << to))));
}

INLINE __m256i codebook_x2(enum format format) {
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)codebook_of(format)));
}

/* sums += the quants of n vectors, unsigned and at most `max`, . 4 n activations. */
INLINE __m256i dot_quants(__m256i sums, int max, int n, const __m256i *q, const uint8_t *activations) {
#if HAS_DOT_U8X4
    for (int c = 0; c < n; c++) sums = dot_u8x4(sums, q[c], broadcast_i32(activations + 4 * c));
#else
    const __m256i ones = _mm256_set1_epi16(1), low_nibbles = _mm256_set1_epi8(15);
    if (max > 127) {
        __m256i low = _mm256_setzero_si256(), high = low;
        for (int c = 0; c < n; c++) {
            const __m256i v = broadcast_i32(activations + 4 * c);
            const __m256i h = _mm256_and_si256(_mm256_srli_epi16(q[c], 4), low_nibbles);
            low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_and_si256(q[c], low_nibbles), v));
            high = _mm256_add_epi16(high, _mm256_maddubs_epi16(h, v));
        }
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(low, ones));
        return _mm256_add_epi32(sums, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
    }
    const int step = pairs_in_16_bits(max);
    for (int first = 0; first < n; first += step) {
        __m256i s = _mm256_maddubs_epi16(q[first], broadcast_i32(activations + 4 * first));
        for (int c = first + 1; c < n && c < first + step; c++)
            s = _mm256_add_epi16(s, _mm256_maddubs_epi16(q[c], broadcast_i32(activations + 4 * c)));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(s, ones));
    }
#endif
    return sums;
}

/* ---- Blocks of 32 weights ---------------------------------------------------------------------------------------- */

/* Quants of eight rows of a group, unsigned: vector c is weights 4 c to 4 c + 3 of each row's block. */
INLINE void unpack_group(enum format format, const uint8_t *group, int half, __m256i *q) {
    const uint8_t *quants = group + quants_at(format) + 32 * half;
    switch (traits_of(format).encoding) {
        case SIGNED_BYTES: /* unsigned in the group */
            for (int c = 0; c < 8; c++) q[c] = load_x32(quants + 64 * c);
            return;
        case NIBBLES:
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 64 * (c % 4));
                q[c] = _mm256_and_si256(c < 4 ? v : _mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
            }
            return;
        case CODES: {
            const __m256i codebook = codebook_x2(format);
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 64 * (c % 4));
                const __m256i codes = _mm256_and_si256(c < 4 ? v : _mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
                q[c] = _mm256_shuffle_epi8(codebook, codes);
            }
            return;
        }
        case NIBBLES_AND_FIFTH: {
            const __m256i fifths = load_x32(quants - 64);
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 64 * (c % 4));
                const __m256i low = _mm256_and_si256(c < 4 ? v : _mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
                q[c] = with_bit(low, fifths, c, 4);
            }
            return;
        }
        case TWO_BITS:
        case TWO_BITS_AND_THIRD:
        case NIBBLES_AND_TOP_TWO: break; /* no block of 32 has these */
    }
    __builtin_unreachable();
}

/* The scales of eight rows of a group of blocks of 32. */
INLINE __m256 load_group_scales(enum format format, const uint8_t *group, int half) {
    return traits_of(format).scale_bytes == 1 ? load_e8m0x8(group + 8 * half) : load_f16x8(group + 16 * half);
}

/* out[j * out_stride + r]: 16 rows by up to eight tokens. Sums are exact within a block, and blocks are added in their
 * order in single precision, so a token's results don't depend on how many tokens there are. */
INLINE void repacked_block_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    __m256 a[2][TILE_TOKENS];
    for (int j = 0; j < n_tokens; j++) a[0][j] = a[1][j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format), activations += n_tokens * BLOCK_ACT_BYTES) {
        for (int line = 0; line < group_bytes(format); line += 64) prefetch_weights(from, group + line);
#pragma GCC unroll 1
        for (int half = 0; half < 2; half++) {
            __m256i q[8];
            unpack_group(format, group, half, q);
            const __m256 d = load_group_scales(format, group, half);
            const __m256 m = t.has_min ? load_f16x8(group + 32 + 16 * half) : d;
            for (int j = 0; j < n_tokens; j++) {
                const uint8_t *sum = activations + act_sums_at(n_tokens) + 4 * j;
                const __m256i start = t.has_min ? _mm256_setzero_si256() : broadcast_i32(sum);
                const __m256i s = dot_quants(start, max_quant(format), 8, q, activations + 32 * j);
                const __m256 scale = _mm256_mul_ps(d, broadcast_f32(activations + act_scales_at(n_tokens) + 4 * j));
                a[half][j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), scale, a[half][j]);
                if (t.has_min) a[half][j] = _mm256_fmadd_ps(m, broadcast_f32(sum), a[half][j]);
            }
        }
    }
    for (int j = 0; j < n_tokens; j++) {
        _mm256_storeu_ps(out + j * out_stride, a[0][j]);
        _mm256_storeu_ps(out + j * out_stride + 8, a[1][j]);
    }
}

/* ---- Super-blocks of 256 weights --------------------------------------------------------------------------------- */

/* Weights 32 n to 32 n + 31 of eight rows of a group of super-blocks, unsigned. */
INLINE void unpack_super_part(enum format format, const uint8_t *group, int half, int n, __m256i *q) {
    const __m256i low_nibbles = _mm256_set1_epi8(15);
    const uint8_t *quants = group + super_quants_at(format) + 32 * half;
    switch (traits_of(format).encoding) {
        case TWO_BITS:
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 512 * (n / 4) + 64 * c);
                q[c] = _mm256_and_si256(_mm256_srli_epi16(v, 2 * (n % 4)), _mm256_set1_epi8(3));
            }
            return;
        case TWO_BITS_AND_THIRD: {
            quants += 768 * (n / 4);
            const __m256i thirds = load_x32(quants + 64 * (n % 4));
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 256 + 64 * c);
                const __m256i low = _mm256_and_si256(_mm256_srli_epi16(v, 2 * (n % 4)), _mm256_set1_epi8(3));
                q[c] = with_bit(low, thirds, c, 2);
            }
            return;
        }
        case NIBBLES_AND_FIFTH: {
            quants += 640 * (n / 2);
            const __m256i fifths = load_x32(quants + 64 * (n % 2));
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 128 + 64 * c);
                const __m256i low = _mm256_and_si256(n % 2 ? _mm256_srli_epi16(v, 4) : v, low_nibbles);
                q[c] = with_bit(low, fifths, c, 4);
            }
            return;
        }
        case CODES: {
            const __m256i codebook = codebook_x2(format);
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 256 * n + 64 * (c % 4));
                const __m256i codes = _mm256_and_si256(c < 4 ? v : _mm256_srli_epi16(v, 4), low_nibbles);
                q[c] = _mm256_shuffle_epi8(codebook, codes);
            }
            return;
        }
        case NIBBLES:
            for (int c = 0; c < 8; c++) {
                const __m256i v = load_x32(quants + 512 * (n / 2) + 64 * c);
                q[c] = _mm256_and_si256(n % 2 ? _mm256_srli_epi16(v, 4) : v, low_nibbles);
            }
            return;
        case NIBBLES_AND_TOP_TWO:
            quants += 1536 * (n / 4);
            for (int c = 0; c < 8; c++) {
                const __m256i low = load_x32(quants + 512 + 512 * (n % 2) + 64 * c);
                const __m256i high = load_x32(quants + 64 * c);
                const __m256i v = n % 4 < 2 ? low : _mm256_srli_epi16(low, 4);
                const __m256i h = n % 4 == 0   ? _mm256_slli_epi16(high, 4)
                                  : n % 4 == 1 ? _mm256_slli_epi16(high, 2)
                                  : n % 4 == 2 ? high
                                               : _mm256_srli_epi16(high, 2);
                q[c] = _mm256_or_si256(_mm256_and_si256(v, low_nibbles), _mm256_and_si256(h, _mm256_set1_epi8(48)));
            }
            return;
        case SIGNED_BYTES: break; /* no super-block has these */
    }
    __builtin_unreachable();
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
        case MXFP4: break; /* no super-blocks */
    }
    __builtin_unreachable();
}

/* Minima 2 v and 2 v + 1 of eight rows, as pairs of 16 bits, of a format with minima. */
INLINE __m256i load_min_pairs(enum format format, const uint8_t *group, int half, int v) {
    const uint8_t *at = group + (format == Q2_K ? SUPER_SCALES_AT : SUPER_MINS_AT) + 32 * v + 16 * half;
    const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)at));
    return format == Q2_K ? _mm256_srli_epi16(pairs, 4) : pairs;
}

/* As repacked_block_tile, of super-blocks. Sums are exact within the weights of one scale (32 or 16). */
INLINE void repacked_super_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    const int64_t part_bytes = part_act_bytes(format, n_tokens);
    const int max = max_quant(format);
    __m256 a[2][TILE_TOKENS];
    for (int j = 0; j < n_tokens; j++) a[0][j] = a[1][j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format)) {
        const int lines = (int)group_bytes(format) / 64;
        const uint8_t *ends = activations + 8 * part_bytes;
#pragma GCC unroll 1
        for (int half = 0; half < 2; half++) {
            __m256 part[TILE_TOKENS];
            for (int j = 0; j < n_tokens; j++) part[j] = _mm256_setzero_ps();
#pragma GCC unroll 8
            for (int n = 0; n < 8; n++) {
                const int share = 8 * half + n;
                for (int line = lines * share / 16; line < lines * (share + 1) / 16; line++)
                    prefetch_weights(from, group + 64 * line);
                __m256i q[8];
                unpack_super_part(format, group, half, n, q);
                const uint8_t *quants = activations + n * part_bytes;
                __m256 scale[2];
                load_part_scales(format, group, half, n, scale);
                const bool fine = t.weights_per_scale == 16;
                for (int j = 0; j < n_tokens; j++) {
                    const uint8_t *corrections = quants + 32 * n_tokens + (fine ? 8 : 4) * j;
                    const __m256i none = _mm256_setzero_si256();
                    const __m256i first = t.has_min ? none : broadcast_i32(corrections);
                    const __m256i s = dot_quants(first, max, fine ? 4 : 8, q, quants + 32 * j);
                    part[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), scale[0], part[j]);
                    if (!fine) continue;
                    const __m256i second = t.has_min ? none : broadcast_i32(corrections + 4);
                    const __m256i u = dot_quants(second, max, 4, q + 4, quants + 32 * j + 16);
                    part[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(u), scale[1], part[j]);
                }
            }
            const __m256 d = load_f16x8(group + 16 * half);
            for (int j = 0; j < n_tokens; j++)
                a[half][j] = _mm256_fmadd_ps(part[j], _mm256_mul_ps(d, broadcast_f32(ends + 4 * j)), a[half][j]);
            if (!t.has_min) continue;
            const __m256 m = load_f16x8(group + 32 + 16 * half);
            const int n_pairs = super_sums_bytes(format) / 4;
            __m256i mins[8];
            for (int v = 0; v < n_pairs; v++) mins[v] = load_min_pairs(format, group, half, v);
            for (int j = 0; j < n_tokens; j++) {
                const uint8_t *sums = ends + 4 * n_tokens + super_sums_bytes(format) * j;
                __m256i s = _mm256_madd_epi16(mins[0], broadcast_i32(sums));
                for (int v = 1; v < n_pairs; v++)
                    s = _mm256_add_epi32(s, _mm256_madd_epi16(mins[v], broadcast_i32(sums + 4 * v)));
                const __m256 scale = _mm256_mul_ps(m, broadcast_f32(ends + 4 * j));
                a[half][j] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(s), scale, a[half][j]);
            }
        }
        activations = ends + (4 + super_sums_bytes(format)) * n_tokens;
    }
    for (int j = 0; j < n_tokens; j++) {
        _mm256_storeu_ps(out + j * out_stride, a[0][j]);
        _mm256_storeu_ps(out + j * out_stride + 8, a[1][j]);
    }
}
