/* Products of repacked weights in NEON with DOTPROD: a panel of 16 rows, one a lane, by up to four tokens.
 *
 * There are 32 registers of 16 bytes, so a vector of a group is four, each of four rows. One instruction multiplies four
 * bytes of each row with the same four activations. All of it is exact. */
#pragma once
#include "products/activations.h"
#include "products/group_scales.h"
#include "products/panels.h"
#include "products/quants.h"

#ifndef __ARM_FEATURE_DOTPROD
#error "this tier needs DOTPROD"
#endif

/* Numbers of tokens for which the compiler makes a tile of its own, and the number of any other tile. */
#define CONSTANT_TOKENS(X) X(1) X(2) X(3)
#define OTHER_TOKENS(n)    TILE_TOKENS

/* Loops over the tokens and vectors of a tile are unrolled, so that sums stay in registers. */
#define UNROLL _Pragma("GCC unroll 8")

/* One function for all places that weights come from: it compiles in half of the time. */
#define PANEL_CODE OUT_OF_LINE

enum { QUARTERS = 4 };

/* Bytes of a group, a cache line at a time. Untested on hardware: the distances are those of AVX2. */
INLINE void prefetch_weights(enum weights_from from, const uint8_t *group, int begin, int end) {
    if (from == CACHE)
        for (int line = begin; line < end; line++) prefetch_l1(group + 64 * line + 10240);
    else if (from == MEMORY) prefetch_l2(group + 64 * begin + 3072, 64 * (end - begin));
}

/* Whether quants are bytes that need all eight bits. Their zero point is 128, so they are computed with as signed bytes
 * without one. */
INLINE bool are_signed(enum format format) {
    const struct format_traits t = traits_of(format);
    return t.encoding == SIGNED_BYTES || (t.encoding == CODES && format != MXFP4);
}
#define SIGNED_HAVE_ZERO_POINT_128(name, block, weights, per_scale, encoding, quants, scale, min, zero, activations)   \
    _Static_assert((encoding) != SIGNED_BYTES || (zero) == 128, #name ": bytes are unsigned by adding 128");
FORMATS(SIGNED_HAVE_ZERO_POINT_128)
#undef SIGNED_HAVE_ZERO_POINT_128

/* The quants as they are computed with: signed where they are, unsigned up to 63 otherwise. */
INLINE int8x16_t unpack_quants(enum format format, const uint8_t *group, int quarter, int n, int c) {
    const vq quants = is_super_block(format)
                          ? unpack_super_quants(format, group + part_quants(format, n), quarter, n % 4, c)
                          : unpack_block_quants(format, group, quarter, c);
    return vreinterpretq_s8_u8(are_signed(format) ? veorq_u8(quants, vdupq_n_u8(128)) : quants);
}

/* s[quarter][j] += quants of vectors `first` to `first` + n . token j's activations. */
INLINE void dot_quants(enum format format, int n_tokens, const uint8_t *group, int part, int first, int n,
                       const uint8_t *activations, int32x4_t s[QUARTERS][TILE_TOKENS]) {
    UNROLL for (int c = first; c < first + n; c++) {
        int8x16_t q[QUARTERS];
        UNROLL for (int i = 0; i < QUARTERS; i++) q[i] = unpack_quants(format, group, i, part, c);
        UNROLL for (int j = 0; j < n_tokens; j++) {
            const int8x16_t v = vreinterpretq_s8_s32(broadcast_i32(activations + 32 * j + 4 * c));
            UNROLL for (int i = 0; i < QUARTERS; i++) s[i][j] = vdotq_s32(s[i][j], q[i], v);
        }
    }
}

/* What the sums of a token begin with: the zero point times the activations' sum, which `correction` holds negative. */
INLINE int32x4_t first_sum(enum format format, const uint8_t *correction) {
    return traits_of(format).has_min || are_signed(format) ? vdupq_n_s32(0) : broadcast_i32(correction);
}

INLINE void store_rows(int n_tokens, float32x4_t a[QUARTERS][TILE_TOKENS], float *out, int64_t out_stride) {
    UNROLL for (int j = 0; j < n_tokens; j++) UNROLL for (int i = 0; i < QUARTERS; i++)
        vst1q_f32(out + j * out_stride + 4 * i, a[i][j]);
}

/* out[j * out_stride + r]: 16 rows by up to TILE_TOKENS tokens. Sums are exact within a block, and blocks are added in
 * their order in single precision, so a token's results don't depend on how many tokens there are. */
INLINE void repacked_block_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    float32x4_t a[QUARTERS][TILE_TOKENS];
    UNROLL for (int i = 0; i < QUARTERS; i++) UNROLL for (int j = 0; j < n_tokens; j++) a[i][j] = vdupq_n_f32(0);
    for (int64_t b = 0; b < n_blocks; b++, group += group_bytes(format), activations += n_tokens * BLOCK_ACT_BYTES) {
        prefetch_weights(from, group, 0, ((int)group_bytes(format) + 63) / 64);
        const uint8_t *sums = activations + act_sums_at(n_tokens), *scales = activations + act_scales_at(n_tokens);
        int32x4_t s[QUARTERS][TILE_TOKENS];
        UNROLL for (int i = 0; i < QUARTERS; i++) UNROLL for (int j = 0; j < n_tokens; j++) s[i][j] =
            first_sum(format, sums + 4 * j);
        dot_quants(format, n_tokens, group, 0, 0, 8, activations, s);
        UNROLL for (int i = 0; i < QUARTERS; i++) {
            const float32x4_t d = load_group_scales(format, group, i);
            const float32x4_t m = t.has_min ? vf_load_f16(group + 32 + 8 * i) : d;
            UNROLL for (int j = 0; j < n_tokens; j++) {
                const float32x4_t scale = vmulq_f32(d, broadcast_f32(scales + 4 * j));
                a[i][j] = vfmaq_f32(a[i][j], vcvtq_f32_s32(s[i][j]), scale);
                if (t.has_min) a[i][j] = vfmaq_f32(a[i][j], m, broadcast_f32(sums + 4 * j));
            }
        }
    }
    store_rows(n_tokens, a, out, out_stride);
}

/* part[quarter][j] += sums of the weights of part n (32 of them) times their scales. `activations` are those of the
 * part. */
INLINE void add_super_part(enum format format, int n_tokens, const uint8_t *group, int n, const uint8_t *activations,
                           float32x4_t part[QUARTERS][TILE_TOKENS]) {
    const int n_scales = 32 / traits_of(format).weights_per_scale, n_vectors = 8 / n_scales;
    float32x4_t scale[QUARTERS][2];
    for (int i = 0; i < QUARTERS; i++) load_part_scales(format, group, i, n, scale[i]);
#pragma GCC unroll 2
    for (int half = 0; half < n_scales; half++) {
        const uint8_t *corrections = activations + 32 * n_tokens + 4 * half;
        int32x4_t s[QUARTERS][TILE_TOKENS];
        UNROLL for (int i = 0; i < QUARTERS; i++) UNROLL for (int j = 0; j < n_tokens; j++) s[i][j] =
            first_sum(format, corrections + 4 * n_scales * j);
        dot_quants(format, n_tokens, group, n, n_vectors * half, n_vectors, activations, s);
        UNROLL for (int i = 0; i < QUARTERS; i++) UNROLL for (int j = 0; j < n_tokens; j++) part[i][j] =
            vfmaq_f32(part[i][j], vcvtq_f32_s32(s[i][j]), scale[i][half]);
    }
}

/* Products of pairs of 16-bit numbers, each pair added up. */
INLINE int32x4_t dot_pairs(int16x8_t a, int16x8_t b) {
    return vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}

/* As repacked_block_tile, of super-blocks. Sums are exact within the weights of one scale (32 or 16). */
INLINE void repacked_super_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    const int64_t part_bytes = part_act_bytes(format, n_tokens);
    const int lines = (int)group_bytes(format) / 64;
    float32x4_t a[QUARTERS][TILE_TOKENS];
    UNROLL for (int i = 0; i < QUARTERS; i++) UNROLL for (int j = 0; j < n_tokens; j++) a[i][j] = vdupq_n_f32(0);
    for (int64_t b = 0; b < n_blocks; b++, group += group_bytes(format)) {
        float32x4_t part[QUARTERS][TILE_TOKENS];
        UNROLL for (int i = 0; i < QUARTERS; i++) UNROLL for (int j = 0; j < n_tokens; j++) part[i][j] = vdupq_n_f32(0);
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++, activations += part_bytes) {
            prefetch_weights(from, group, lines * n / 8, lines * (n + 1) / 8);
            add_super_part(format, n_tokens, group, n, activations, part);
        }
        for (int i = 0; i < QUARTERS; i++) {
            const float32x4_t d = vf_load_f16(group + 8 * i);
            UNROLL for (int j = 0; j < n_tokens; j++) a[i][j] =
                vfmaq_f32(a[i][j], part[i][j], vmulq_f32(d, broadcast_f32(activations + 4 * j)));
            if (!t.has_min) continue;
            const float32x4_t m = vf_load_f16(group + 32 + 8 * i);
            UNROLL for (int j = 0; j < n_tokens; j++) {
                const uint8_t *sums = activations + 4 * n_tokens + super_sums_bytes(format) * j;
                int32x4_t s = vdupq_n_s32(0);
                for (int v = 0; v < super_sums_bytes(format) / 4; v++) {
                    const int16x8_t pair = vreinterpretq_s16_s32(broadcast_i32(sums + 4 * v));
                    s = vaddq_s32(s, dot_pairs(load_min_pairs(format, group, i, v), pair));
                }
                const float32x4_t scale = vmulq_f32(m, broadcast_f32(activations + 4 * j));
                a[i][j] = vfmsq_f32(a[i][j], vcvtq_f32_s32(s), scale);
            }
        }
        activations += (4 + super_sums_bytes(format)) * n_tokens;
    }
    store_rows(n_tokens, a, out, out_stride);
}
