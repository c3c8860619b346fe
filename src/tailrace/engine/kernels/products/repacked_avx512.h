/* Products of repacked weights in AVX-512 VNNI: a panel of 16 rows, one a lane, by up to eight tokens. */
#pragma once
#include "loading/repack_layout.h"
#include "products/activations.h"
#include "products/group_scales.h"
#include "products/panels.h"

/* Numbers of tokens for which the compiler makes a tile of its own, and the number of any other tile. The registers hold
 * the sums of all. */
#define CONSTANT_TOKENS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define OTHER_TOKENS(n)    8

/* Where weights come from is a constant for the compiler: 1.03 at one stream. */
#define PANEL_CODE INLINE

/* Cache lines `begin` to `end` of a group. */
INLINE void prefetch_weights(enum weights_from from, const uint8_t *group, int begin, int end) {
    for (int line = begin; line < end; line++) {
        const char *weights = (const char *)group + 64 * line;
        if (from == CACHE) _mm_prefetch(weights + 10240, _MM_HINT_T0);
        else if (from == MEMORY && __builtin_cpu_is("intel")) _mm_prefetch(weights + 4096, _MM_HINT_T0);
        else if (from == MEMORY) _mm_prefetch(weights + 3072, _MM_HINT_T1);
    }
}

/* sums += four unsigned bytes of each lane . the same four signed bytes from memory. In assembler, because gcc 12 makes
 * two instructions of the intrinsics. */
INLINE __m512i dot_u8x4(__m512i sums, __m512i weights, const uint8_t *quants) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(const int32_t *)quants));
    return sums;
}

/* The same of two 16-bit numbers. */
INLINE __m512i dot_i16x2(__m512i sums, __m512i weights, const uint8_t *pair) {
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(const int32_t *)pair));
    return sums;
}

/* Bit `from` of each byte, 0 to 7, as bit `to`, and the bits of `others`. */
INLINE __m512i with_bit(__m512i others, __m512i bits, int from, int to) {
    const __m512i moved =
        from < to ? _mm512_slli_epi16(bits, (unsigned)(to - from)) : _mm512_srli_epi16(bits, (unsigned)(from - to));
    return _mm512_ternarylogic_epi32(others, moved, _mm512_set1_epi8((char)(1 << to)), 0xf8); /* others | moved & bit */
}

INLINE __m512i codebook_x4(enum format format) {
    return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)codebook_of(format)));
}

INLINE __m512 broadcast_f32(const uint8_t *p) {
    float v;
    memcpy(&v, p, 4);
    return _mm512_set1_ps(v);
}

/* ---- Blocks of 32 weights ---------------------------------------------------------------------------------------- */

/* The group's quants, unsigned: vector c is weights 4 c to 4 c + 3 of each row's block. */
INLINE void unpack_group(enum format format, const uint8_t *group, __m512i *q) {
    const uint8_t *quants = group + quants_at(format);
    switch (traits_of(format).encoding) {
        case SIGNED_BYTES: /* unsigned in the group */
            for (int c = 0; c < 8; c++) q[c] = _mm512_loadu_si512(quants + 64 * c);
            return;
        case NIBBLES:
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 64 * (c % 4));
                q[c] = _mm512_and_si512(c < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
            }
            return;
        case CODES: {
            const __m512i codebook = codebook_x4(format);
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 64 * (c % 4));
                const __m512i codes = _mm512_and_si512(c < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
                q[c] = _mm512_shuffle_epi8(codebook, codes);
            }
            return;
        }
        case NIBBLES_AND_FIFTH: {
            const __m512i fifths = _mm512_loadu_si512(quants - 64);
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 64 * (c % 4));
                const __m512i low = _mm512_and_si512(c < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
                q[c] = with_bit(low, fifths, c, 4);
            }
            return;
        }
        case TWO_BITS:
        case TWO_BITS_AND_THIRD:
        case FLOATS:
        case NIBBLES_AND_TOP_TWO: break; /* no block of 32 has these */
    }
    __builtin_unreachable();
}

/* out[j * out_stride + r]: 16 rows by up to eight tokens. Sums are exact within a block, and blocks are added in their
 * order in single precision, so a token's results don't depend on how many tokens there are. */
INLINE void repacked_block_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    __m512 a[TILE_TOKENS];
    for (int j = 0; j < n_tokens; j++) a[j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format), activations += n_tokens * BLOCK_ACT_BYTES) {
        prefetch_weights(from, group, 0, ((int)group_bytes(format) + 63) / 64);
        __m512i q[8];
        unpack_group(format, group, q);
        const __m512 d = load_group_scales(format, group, 0), m = t.has_min ? load_f16x16(group + 32) : d;
        for (int j = 0; j < n_tokens; j++) {
            const uint8_t *sum = activations + act_sums_at(n_tokens) + 4 * j;
            __m512i s = t.has_min ? _mm512_setzero_si512() : _mm512_castps_si512(broadcast_f32(sum));
            for (int n = 0; n < 8; n++) s = dot_u8x4(s, q[n], activations + 32 * j + 4 * n);
            const __m512 scale = _mm512_mul_ps(d, broadcast_f32(activations + act_scales_at(n_tokens) + 4 * j));
            a[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), scale, a[j]);
            if (t.has_min) a[j] = _mm512_fmadd_ps(m, broadcast_f32(sum), a[j]);
        }
    }
    for (int j = 0; j < n_tokens; j++) _mm512_storeu_ps(out + j * out_stride, a[j]);
}

/* ---- Super-blocks of 256 weights --------------------------------------------------------------------------------- */

/* Weights 32 n to 32 n + 31 of the rows of a group of super-blocks, unsigned. */
INLINE void unpack_super_part(enum format format, const uint8_t *group, int n, __m512i *q) {
    const __m512i low_nibbles = _mm512_set1_epi8(15);
    const uint8_t *quants = group + super_quants_at(format);
    switch (traits_of(format).encoding) {
        case TWO_BITS:
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 512 * (n / 4) + 64 * c);
                q[c] = _mm512_and_si512(_mm512_srli_epi16(v, 2 * (unsigned)(n % 4)), _mm512_set1_epi8(3));
            }
            return;
        case TWO_BITS_AND_THIRD: {
            quants += 768 * (n / 4);
            const __m512i thirds = _mm512_loadu_si512(quants + 64 * (n % 4));
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 256 + 64 * c);
                const __m512i low = _mm512_and_si512(_mm512_srli_epi16(v, 2 * (unsigned)(n % 4)), _mm512_set1_epi8(3));
                q[c] = with_bit(low, thirds, c, 2);
            }
            return;
        }
        case NIBBLES:
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 512 * (n / 2) + 64 * c);
                q[c] = _mm512_and_si512(n % 2 ? _mm512_srli_epi16(v, 4) : v, low_nibbles);
            }
            return;
        case NIBBLES_AND_FIFTH: {
            quants += 640 * (n / 2);
            const __m512i fifths = _mm512_loadu_si512(quants + 64 * (n % 2));
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 128 + 64 * c);
                const __m512i low = _mm512_and_si512(n % 2 ? _mm512_srli_epi16(v, 4) : v, low_nibbles);
                q[c] = with_bit(low, fifths, c, 4);
            }
            return;
        }
        case CODES: {
            const __m512i codebook = codebook_x4(format);
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 256 * n + 64 * (c % 4));
                const __m512i codes = _mm512_and_si512(c < 4 ? v : _mm512_srli_epi16(v, 4), low_nibbles);
                q[c] = _mm512_shuffle_epi8(codebook, codes);
            }
            return;
        }
        case NIBBLES_AND_TOP_TWO:
            quants += 1536 * (n / 4);
            for (int c = 0; c < 8; c++) {
                const __m512i low = _mm512_loadu_si512(quants + 512 + 512 * (n % 2) + 64 * c);
                const __m512i high = _mm512_loadu_si512(quants + 64 * c);
                const __m512i v = n % 4 < 2 ? low : _mm512_srli_epi16(low, 4);
                const __m512i h = n % 4 == 0   ? _mm512_slli_epi16(high, 4)
                                  : n % 4 == 1 ? _mm512_slli_epi16(high, 2)
                                  : n % 4 == 2 ? high
                                               : _mm512_srli_epi16(high, 2);
                q[c] = _mm512_or_si512(_mm512_and_si512(v, low_nibbles), _mm512_and_si512(h, _mm512_set1_epi8(48)));
            }
            return;
        case FLOATS:
        case SIGNED_BYTES: break; /* no super-block has these */
    }
    __builtin_unreachable();
}

/* Minima 2 v and 2 v + 1 of 16 rows, as pairs of 16 bits, of a format with minima. */
INLINE __m512i load_min_pairs(enum format format, const uint8_t *group, int v) {
    const int at = format == Q2_K ? SUPER_SCALES_AT : SUPER_MINS_AT;
    const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(group + at + 32 * v)));
    return format == Q2_K ? _mm512_srli_epi16(pairs, 4) : pairs;
}

/* As repacked_block_tile, of super-blocks. Sums are exact within the weights of one scale (32 or 16). */
INLINE void repacked_super_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    const int64_t part_bytes = part_act_bytes(format, n_tokens);
    __m512 a[TILE_TOKENS];
    for (int j = 0; j < n_tokens; j++) a[j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format)) {
        __m512 part[TILE_TOKENS];
        for (int j = 0; j < n_tokens; j++) part[j] = _mm512_setzero_ps();
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
            for (int quarter = 0; quarter < 4; quarter++, activations += part_bytes) {
                const int n = 4 * half + quarter, lines = (int)group_bytes(format) / 64;
                prefetch_weights(from, group, lines * n / 8, lines * (n + 1) / 8);
                __m512i q[8];
                unpack_super_part(format, group, n, q);
                __m512 scale[2];
                load_part_scales(format, group, 0, n, scale);
                const bool fine = t.weights_per_scale == 16;
                /* A token's sum is one chain of dependent instructions, so the chains of two tokens take turns. */
                const int n_chains = n_tokens % 2 ? 1 : 2;
                for (int j = 0; j < n_tokens; j += n_chains) {
                    __m512i s[2], u[2];
                    for (int k = 0; k < n_chains; k++) {
                        const uint8_t *corrections = activations + 32 * n_tokens + (fine ? 8 : 4) * (j + k);
                        const __m512i none = _mm512_setzero_si512();
                        s[k] = t.has_min ? none : _mm512_castps_si512(broadcast_f32(corrections));
                        u[k] = t.has_min || !fine ? none : _mm512_castps_si512(broadcast_f32(corrections + 4));
                    }
                    for (int v = 0; v < (fine ? 4 : 8); v++)
                        for (int k = 0; k < n_chains; k++) {
                            const uint8_t *quants = activations + 32 * (j + k) + 4 * v;
                            s[k] = dot_u8x4(s[k], q[v], quants);
                            if (fine) u[k] = dot_u8x4(u[k], q[v + 4], quants + 16);
                        }
                    for (int k = 0; k < n_chains; k++) {
                        part[j + k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[k]), scale[0], part[j + k]);
                        if (fine) part[j + k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(u[k]), scale[1], part[j + k]);
                    }
                }
            }
        }
        const __m512 d = load_f16x16(group);
        for (int j = 0; j < n_tokens; j++)
            a[j] = _mm512_fmadd_ps(part[j], _mm512_mul_ps(d, broadcast_f32(activations + 4 * j)), a[j]);
        if (t.has_min) {
            const __m512 m = load_f16x16(group + 32);
            const int n_pairs = super_sums_bytes(format) / 4;
            __m512i mins[8];
            for (int v = 0; v < n_pairs; v++) mins[v] = load_min_pairs(format, group, v);
            for (int j = 0; j < n_tokens; j++) {
                const uint8_t *sums = activations + 4 * n_tokens + super_sums_bytes(format) * j;
                __m512i s = _mm512_setzero_si512();
                for (int v = 0; v < n_pairs; v++) s = dot_i16x2(s, mins[v], sums + 4 * v);
                const __m512 scale = _mm512_mul_ps(m, broadcast_f32(activations + 4 * j));
                a[j] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(s), scale, a[j]);
            }
        }
        activations += (4 + super_sums_bytes(format)) * n_tokens;
    }
    for (int j = 0; j < n_tokens; j++) _mm512_storeu_ps(out + j * out_stride, a[j]);
}
