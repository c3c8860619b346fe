/* Products of repacked 16-bit floats, in the vectors of every tier: a panel of 16 rows, one a lane, by up to TILE_TOKENS
 * tokens.
 *
 * Activations are rounded to the weights' format, as upstream rounds them, and kept in single precision. Even and odd
 * numbers have sums of their own, which hides the latency of an addition. */
#pragma once
#include "loading/repack_layout.h"
#include "products/panels.h"
#include "products/repacked_tiles.h"

enum {
    FLOAT_ACT_BYTES = 32 * 4,            /* of a block of a token */
    FLOAT_PARTS = GROUP_ROWS / VF_LANES, /* vectors of a row group */
};

#ifdef __aarch64__
/* A number, rounded. NaN stays NaN. */
INLINE float round_float(enum format format, float x) {
    if (format == F16 || x != x) return round_to_f16(x);
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (bits + (bits >> 16 & 1) + 0x7fff) & 0xffff0000;
    memcpy(&x, &bits, 4);
    return x;
}

/* A block of 32 numbers of token j, token after token. */
INLINE void round_block(enum format format, const float *x, uint8_t *block, int j) {
    for (int i = 0; i < 32; i++) {
        const float rounded = round_float(format, x[i]);
        memcpy(block + FLOAT_ACT_BYTES * j + 4 * i, &rounded, 4);
    }
}
#else
/* Eight numbers, rounded. */
INLINE __m256 round_floats_x8(enum format format, const float *x) {
    const __m256 v = _mm256_loadu_ps(x);
    if (format == F16) return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    /* To the nearest number of bf16, halves to even. NaN stays NaN. */
    const __m256i bits = _mm256_castps_si256(v),
                  odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i kept = _mm256_and_si256(rounded, _mm256_set1_epi32((int)0xffff0000));
    return _mm256_blendv_ps(_mm256_castsi256_ps(kept), v, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}

/* A block of 32 numbers of token j, token after token. */
INLINE void round_block(enum format format, const float *x, uint8_t *block, int j) {
    for (int i = 0; i < 32; i += 8)
        _mm256_storeu_ps((float *)(block + FLOAT_ACT_BYTES * j) + i, round_floats_x8(format, x + i));
}
#endif

/* A cache line of a group, 6 KB ahead in memory: 3 KB are read too soon, as a weight takes two bytes. Few tokens leave
 * room for weights in the first-level cache. F16 of 200 MB takes 6.2 ms at one token; 8.9 with 3 KB as of quants. */
INLINE void prefetch_floats(enum weights_from from, int n_tokens, const uint8_t *line) {
    if (from == CACHE) prefetch_weights(from, line, 0, 1);
    else if (n_tokens <= 2) prefetch_l1(line + 6144);
    else prefetch_l2(line + 6144, 64);
}

/* sums[j][0] and [1] += even and odd numbers of a part of a group . a block of each token. */
INLINE void add_float_products(enum format format, enum weights_from from, int n_tokens, const uint8_t *group, int part,
                               const uint8_t *activations, vf sums[][2]) {
#pragma GCC unroll 4
    for (int pair = 0; pair < 16; pair++) {
        if (part == 0) prefetch_floats(from, n_tokens, group + 64 * pair);
        vf w[2];
        if (format == F16) {
            for (int i = 0; i < 2; i++) w[i] = vf_load_f16(group + 64 * pair + 32 * i + 2 * VF_LANES * part);
        } else {
            vf_load_bf16_pairs(group + 64 * pair + 4 * VF_LANES * part, w);
        }
        for (int j = 0; j < n_tokens; j++) {
            const float *x = (const float *)(activations + FLOAT_ACT_BYTES * j) + 2 * pair;
            for (int i = 0; i < 2; i++) sums[j][i] = vf_fma(w[i], vf_set1(x[i]), sums[j][i]);
        }
    }
}

/* out[j * out_stride + r]: 16 rows by up to TILE_TOKENS tokens. A token's results don't depend on how many tokens there
 * are. */
INLINE void repacked_float_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    vf sums[FLOAT_PARTS][TILE_TOKENS][2];
    for (int part = 0; part < FLOAT_PARTS; part++)
        for (int j = 0; j < n_tokens; j++) sums[part][j][0] = sums[part][j][1] = vf_zero();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format), activations += n_tokens * FLOAT_ACT_BYTES)
        for (int part = 0; part < FLOAT_PARTS; part++)
            add_float_products(format, from, n_tokens, group, part, activations, sums[part]);
    for (int part = 0; part < FLOAT_PARTS; part++)
        for (int j = 0; j < n_tokens; j++)
            vf_storeu(out + j * out_stride + VF_LANES * part, vf_add(sums[part][j][0], sums[part][j][1]));
}
