/* Products of repacked weights in AVX-512 VNNI: a panel of 16 rows, one a lane, by up to eight tokens. */
#pragma once
#include "loading/repack_layout.h"
#include "products/activations.h"
#include "products/panels.h"

/* Numbers of tokens for which the compiler makes a tile of its own, and the number of any other tile. The registers hold
 * the sums of all. */
#define CONSTANT_TOKENS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define OTHER_TOKENS(n)    8

INLINE void prefetch_weights(enum weights_from from, const uint8_t *weights) {
    if (from == CACHE) _mm_prefetch((const char *)weights + 10240, _MM_HINT_T0);
    else _mm_prefetch((const char *)weights + 3072, _MM_HINT_T1);
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
            const __m512i codebook = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)codebook_of(format)));
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 64 * (c % 4));
                const __m512i codes = _mm512_and_si512(c < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
                q[c] = _mm512_shuffle_epi8(codebook, codes);
            }
            return;
        }
        case NIBBLES_AND_FIFTH:
        case NIBBLES_AND_TOP_TWO: break; /* no repacked block of 32 has these */
    }
    __builtin_unreachable();
}

/* The scales of a group of blocks of 32. */
INLINE __m512 load_group_scales(enum format format, const uint8_t *group) {
    return traits_of(format).scale_bytes == 1 ? load_e8m0x16(group) : load_f16x16(group);
}

/* out[j * out_stride + r]: 16 rows by up to eight tokens. Sums are exact within a block, and blocks are added in their
 * order in single precision, so a token's results don't depend on how many tokens there are. */
INLINE void repacked_block_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    __m512 a[TILE_TOKENS];
    for (int j = 0; j < n_tokens; j++) a[j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format), activations += n_tokens * BLOCK_ACT_BYTES) {
        for (int line = 0; line < group_bytes(format); line += 64) prefetch_weights(from, group + line);
        __m512i q[8];
        unpack_group(format, group, q);
        const __m512 d = load_group_scales(format, group), m = t.has_min ? load_f16x16(group + 32) : d;
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
    const uint8_t *quants = group + SUPER_QUANTS_AT;
    switch (traits_of(format).encoding) {
        case NIBBLES:
            for (int c = 0; c < 8; c++) {
                const __m512i v = _mm512_loadu_si512(quants + 512 * (n / 2) + 64 * c);
                q[c] = _mm512_and_si512(n % 2 ? _mm512_srli_epi16(v, 4) : v, low_nibbles);
            }
            return;
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
        case CODES:
        case NIBBLES_AND_FIFTH:
        case SIGNED_BYTES: break; /* no repacked super-block has these */
    }
    __builtin_unreachable();
}

/* The scales of 16 rows, which are bytes. */
INLINE __m512 load_scales_x16(const uint8_t *scales, bool is_signed) {
    const __m128i v = _mm_loadu_si128((const __m128i *)scales);
    return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(v) : _mm512_cvtepu8_epi32(v));
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
                for (int line = lines * n / 8; line < lines * (n + 1) / 8; line++)
                    prefetch_weights(from, group + 64 * line);
                __m512i q[8];
                unpack_super_part(format, group, n, q);
                if (t.weights_per_scale == 32) {
                    const __m512 scale = load_scales_x16(group + SUPER_SCALES_AT + 16 * n, false);
                    for (int j = 0; j < n_tokens; j++) {
                        __m512i s = _mm512_setzero_si512();
                        for (int v = 0; v < 8; v++) s = dot_u8x4(s, q[v], activations + 32 * j + 4 * v);
                        part[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), scale, part[j]);
                    }
                    continue;
                }
                const __m512 first = load_scales_x16(group + SUPER_SCALES_AT + 32 * n, true);
                const __m512 second = load_scales_x16(group + SUPER_SCALES_AT + 16 + 32 * n, true);
                for (int j = 0; j < n_tokens; j++) {
                    const uint8_t *corrections = activations + 32 * n_tokens + 8 * j;
                    __m512i s = _mm512_castps_si512(broadcast_f32(corrections));
                    __m512i u = _mm512_castps_si512(broadcast_f32(corrections + 4));
                    for (int v = 0; v < 4; v++) s = dot_u8x4(s, q[v], activations + 32 * j + 4 * v);
                    for (int v = 4; v < 8; v++) u = dot_u8x4(u, q[v], activations + 32 * j + 4 * v);
                    part[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), first, part[j]);
                    part[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), second, part[j]);
                }
            }
        }
        const __m512 d = load_f16x16(group);
        for (int j = 0; j < n_tokens; j++)
            a[j] = _mm512_fmadd_ps(part[j], _mm512_mul_ps(d, broadcast_f32(activations + 4 * j)), a[j]);
        if (t.has_min) {
            const __m512 m = load_f16x16(group + 32);
            __m512i mins[4];
            for (int v = 0; v < 4; v++)
                mins[v] = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(group + SUPER_MINS_AT + 32 * v)));
            for (int j = 0; j < n_tokens; j++) {
                __m512i s = _mm512_setzero_si512();
                for (int v = 0; v < 4; v++) s = dot_i16x2(s, mins[v], activations + 4 * n_tokens + 16 * j + 4 * v);
                const __m512 scale = _mm512_mul_ps(m, broadcast_f32(activations + 4 * j));
                a[j] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(s), scale, a[j]);
            }
        }
        activations += (t.has_min ? 20 : 4) * n_tokens;
    }
    for (int j = 0; j < n_tokens; j++) _mm512_storeu_ps(out + j * out_stride, a[j]);
}
