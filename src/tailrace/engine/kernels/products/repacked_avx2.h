/* Products of repacked weights in AVX2: a panel of 16 rows, one a lane, by up to eight tokens.
 *
 * There are 16 registers of 32 bytes, so a vector of a group is two: eight rows are computed, then the other eight.
 * Without VNNI, bytes are multiplied in pairs whose sum has 16 bits. As many pairs are added up in 16 bits as can't
 * overflow, and then widened. Bytes of weights are split into nibbles for that. All of it is exact. */
#pragma once
#include "products/activations.h"
#include "products/group_scales.h"
#include "products/panels.h"
#include "products/quants.h"

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
#define HAS_DOT_U8X4 1
#else
#define HAS_DOT_U8X4 0
#endif

/* Numbers of tokens for which the compiler makes a tile of its own, and the number of any other tile. */
#define CONSTANT_TOKENS(X) X(1) X(2) X(3)
#define OTHER_TOKENS(n)    TILE_TOKENS

/* Loops over the tokens and vectors of a tile are unrolled, so that sums stay in registers. */
#define UNROLL _Pragma("GCC unroll 8")

/* One function for all places that weights come from: it compiles in half of the time. */
#define PANEL_CODE OUT_OF_LINE

/* Cache lines `begin` to `end` of a group. */
INLINE void prefetch_weights(enum weights_from from, const uint8_t *group, int begin, int end) {
    for (int line = begin; line < end; line++) {
        const char *weights = (const char *)group + 64 * line;
        if (from == CACHE) _mm_prefetch(weights + 10240, _MM_HINT_T0);
        else if (from == MEMORY) _mm_prefetch(weights + 3072, _MM_HINT_T1);
    }
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

/* A sum of 16-bit numbers that the compiler makes here. It would otherwise add all products up at the end, for which there
 * are too few registers. */
INLINE __m256i add_now(__m256i sum, __m256i product) {
    sum = _mm256_add_epi16(sum, product);
    __asm__("" : "+x"(sum));
    return sum;
}

/* Vector c of the quants of part n, up to 3, of a group, or of a half of a group of super-blocks. */
INLINE vq unpack_quants(enum format format, const uint8_t *group, int half, int n, int c) {
    return is_super_block(format) ? unpack_super_quants(format, group, half, n, c)
                                  : unpack_block_quants(format, group, half, c);
}

/* s[half][j] += quants of n vectors, from place `first` of the order on, . token j's activations. */
INLINE void dot_quants(enum format format, int n_tokens, const uint8_t *group, int part, int first, int n,
                       const uint8_t *activations, __m256i s[2][TILE_TOKENS]) {
#if HAS_DOT_U8X4
    UNROLL for (int i = first; i < first + n; i++) {
        const int c = vector_at(format, i);
        const __m256i q = unpack_quants(format, group, 0, part, c), r = unpack_quants(format, group, 1, part, c);
        UNROLL for (int j = 0; j < n_tokens; j++) {
            const __m256i v = broadcast_i32(activations + 32 * j + 4 * c);
            s[0][j] = dot_u8x4(s[0][j], q, v);
            s[1][j] = dot_u8x4(s[1][j], r, v);
        }
    }
#else
    const __m256i ones = _mm256_set1_epi16(1);
    const int max = max_quant(format), step = pairs_in_16_bits(max) < n ? pairs_in_16_bits(max) : n;
    __m256i p[2][TILE_TOKENS];
    if (max <= 127) {
        UNROLL for (int i = first; i < first + n; i++) {
            const int c = vector_at(format, i);
            const bool begins = (i - first) % step == 0, ends = (i - first) % step == step - 1 || i == first + n - 1;
            const __m256i q = unpack_quants(format, group, 0, part, c), r = unpack_quants(format, group, 1, part, c);
            UNROLL for (int j = 0; j < n_tokens; j++) {
                const __m256i v = broadcast_i32(activations + 32 * j + 4 * c);
                const __m256i x = _mm256_maddubs_epi16(q, v), y = _mm256_maddubs_epi16(r, v);
                p[0][j] = begins ? x : add_now(p[0][j], x);
                p[1][j] = begins ? y : add_now(p[1][j], y);
                if (!ends) continue;
                s[0][j] = _mm256_add_epi32(s[0][j], _mm256_madd_epi16(p[0][j], ones));
                s[1][j] = _mm256_add_epi32(s[1][j], _mm256_madd_epi16(p[1][j], ones));
            }
        }
        return;
    }
    /* Bytes: low and high nibbles apart. The registers hold the sums of both halves of up to two tokens. */
    const __m256i low_nibbles = _mm256_set1_epi8(15), sixteens = _mm256_set1_epi16(16);
    const int halves = n_tokens <= 2 ? 2 : 1;
    __m256i u[2][TILE_TOKENS]; /* sums of high nibbles */
#pragma GCC unroll 2
    for (int begin = 0; begin < 2; begin += halves) {
        __asm__ volatile("" ::: "memory"); /* Activations are loaded again: there are no registers to hold them. */
        UNROLL for (int i = first; i < first + n; i++) {
            const int c = vector_at(format, i);
            __m256i low[2], high[2];
            for (int half = begin; half < begin + halves; half++) {
                const __m256i q = unpack_quants(format, group, half, part, c);
                low[half] = _mm256_and_si256(q, low_nibbles);
                high[half] = _mm256_and_si256(_mm256_srli_epi16(q, 4), low_nibbles);
            }
            UNROLL for (int j = 0; j < n_tokens; j++) {
                const __m256i v = broadcast_i32(activations + 32 * j + 4 * c);
                for (int half = begin; half < begin + halves; half++) {
                    const __m256i x = _mm256_maddubs_epi16(low[half], v), y = _mm256_maddubs_epi16(high[half], v);
                    p[half][j] = i == first ? x : add_now(p[half][j], x);
                    u[half][j] = i == first ? y : add_now(u[half][j], y);
                }
            }
        }
        for (int half = begin; half < begin + halves; half++) UNROLL for (int j = 0; j < n_tokens; j++) {
                const __m256i high = _mm256_madd_epi16(u[half][j], sixteens);
                const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(p[half][j], ones), high);
                s[half][j] = _mm256_add_epi32(s[half][j], sum);
            }
    }
#endif
}

/* ---- Tiles ------------------------------------------------------------------------------------------------------- */

/* out[j * out_stride + r]: 16 rows by up to TILE_TOKENS tokens. Sums are exact within a block, and blocks are added in
 * their order in single precision, so a token's results don't depend on how many tokens there are. */
INLINE void repacked_block_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    __m256 a[2][TILE_TOKENS];
    UNROLL for (int j = 0; j < n_tokens; j++) a[0][j] = a[1][j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format), activations += n_tokens * BLOCK_ACT_BYTES) {
        prefetch_weights(from, group, 0, ((int)group_bytes(format) + 63) / 64);
        const uint8_t *sums = activations + act_sums_at(n_tokens), *scales = activations + act_scales_at(n_tokens);
        __m256i s[2][TILE_TOKENS];
        UNROLL for (int j = 0; j < n_tokens; j++) s[0][j] = s[1][j] =
            t.has_min ? _mm256_setzero_si256() : broadcast_i32(sums + 4 * j);
        dot_quants(format, n_tokens, group, 0, 0, 8, activations, s);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m256 d = load_group_scales(format, group, half);
            const __m256 m = t.has_min ? vf_load_f16(group + 32 + 16 * half) : d;
            UNROLL for (int j = 0; j < n_tokens; j++) {
                const __m256 scale = _mm256_mul_ps(d, broadcast_f32(scales + 4 * j));
                a[half][j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[half][j]), scale, a[half][j]);
                if (t.has_min) a[half][j] = _mm256_fmadd_ps(m, broadcast_f32(sums + 4 * j), a[half][j]);
            }
        }
    }
    UNROLL for (int j = 0; j < n_tokens; j++) {
        _mm256_storeu_ps(out + j * out_stride, a[0][j]);
        _mm256_storeu_ps(out + j * out_stride + 8, a[1][j]);
    }
}

/* part[half][j] += sums of the weights of part first + n (32 of them) times their scales. `activations` are those of the
 * part. */
INLINE void add_super_part(enum format format, int n_tokens, const uint8_t *group, int first, int n,
                           const uint8_t *activations, __m256 part[2][TILE_TOKENS]) {
    const struct format_traits t = traits_of(format);
    const int n_scales = 32 / t.weights_per_scale, n_vectors = 8 / n_scales;
    __m256 scale[2][2]; /* [half][i] */
    for (int half = 0; half < 2; half++) load_part_scales(format, group, half, first + n, scale[half]);
#pragma GCC unroll 2
    for (int i = 0; i < n_scales; i++) {
        __m256i s[2][TILE_TOKENS];
        const uint8_t *corrections = activations + 32 * n_tokens + 4 * i;
        UNROLL for (int j = 0; j < n_tokens; j++) s[0][j] = s[1][j] =
            t.has_min ? _mm256_setzero_si256() : broadcast_i32(corrections + 4 * n_scales * j);
        dot_quants(format, n_tokens, group + part_quants(format, first), n, n_vectors * i, n_vectors, activations, s);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++)
            UNROLL for (int j = 0; j < n_tokens; j++) part[half][j] =
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[half][j]), scale[half][i], part[half][j]);
    }
}

/* As repacked_block_tile, of super-blocks. Sums are exact within the weights of one scale (32 or 16). */
INLINE void repacked_super_tile(enum format format, enum weights_from from, int n_tokens, int64_t n_blocks,
                                const uint8_t *group, const uint8_t *activations, float *out, int64_t out_stride) {
    const struct format_traits t = traits_of(format);
    const int64_t part_bytes = part_act_bytes(format, n_tokens);
    __m256 a[2][TILE_TOKENS];
    UNROLL for (int j = 0; j < n_tokens; j++) a[0][j] = a[1][j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_blocks; i++, group += group_bytes(format)) {
        __m256 part[2][TILE_TOKENS];
        UNROLL for (int j = 0; j < n_tokens; j++) part[0][j] = part[1][j] = _mm256_setzero_ps();
        /* The place of a part in its quarter of the quants is a constant for the compiler. */
#pragma GCC unroll 1
        for (int first = 0; first < 8; first += 4) {
#pragma GCC unroll 4
            for (int n = 0; n < 4; n++, activations += part_bytes) {
                const int lines = (int)group_bytes(format) / 64, at = first + n;
                prefetch_weights(from, group, lines * at / 8, lines * (at + 1) / 8);
                add_super_part(format, n_tokens, group, first, n, activations, part);
            }
        }
        for (int half = 0; half < 2; half++) {
            const __m256 d = vf_load_f16(group + 16 * half);
            UNROLL for (int j = 0; j < n_tokens; j++) {
                const __m256 scale = _mm256_mul_ps(d, broadcast_f32(activations + 4 * j));
                a[half][j] = _mm256_fmadd_ps(part[half][j], scale, a[half][j]);
            }
            if (!t.has_min) continue;
            const __m256 m = vf_load_f16(group + 32 + 16 * half);
            const int n_pairs = super_sums_bytes(format) / 4;
            __m256i mins[8];
            for (int v = 0; v < n_pairs; v++) mins[v] = load_min_pairs(format, group, half, v);
            UNROLL for (int j = 0; j < n_tokens; j++) {
                const uint8_t *sums = activations + 4 * n_tokens + super_sums_bytes(format) * j;
                __m256i s = _mm256_madd_epi16(mins[0], broadcast_i32(sums));
                for (int v = 1; v < n_pairs; v++)
                    s = _mm256_add_epi32(s, _mm256_madd_epi16(mins[v], broadcast_i32(sums + 4 * v)));
                const __m256 scale = _mm256_mul_ps(m, broadcast_f32(activations + 4 * j));
                a[half][j] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(s), scale, a[half][j]);
            }
        }
        activations += (4 + super_sums_bytes(format)) * n_tokens;
    }
    UNROLL for (int j = 0; j < n_tokens; j++) {
        _mm256_storeu_ps(out + j * out_stride, a[0][j]);
        _mm256_storeu_ps(out + j * out_stride + 8, a[1][j]);
    }
}
