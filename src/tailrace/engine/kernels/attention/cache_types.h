/* The types of the KV cache that attention reads: how keys and values are stored, and loads of them in single
 * precision.
 *
 * K and V may have different types. Each number is converted exactly, so results are those of the stored numbers in
 * single precision. Upstream rounds the query to 8 bits for quantised keys. Here that takes 1.1 times as long, because
 * each block's sum has to be scaled. */
#pragma once
#include "loading/ggml_api.h"

#define QUANT_BLOCK 32 /* numbers of a block of q8_0 and q4_0: a 16-bit scale and the quantised numbers */

enum cache_type { CACHE_F16, CACHE_BF16, CACHE_Q8_0, CACHE_Q4_0, N_CACHE_TYPES };

static const enum ggml_type ggml_cache_types[N_CACHE_TYPES] = {
    [CACHE_F16] = GGML_TYPE_F16,
    [CACHE_BF16] = GGML_TYPE_BF16,
    [CACHE_Q8_0] = GGML_TYPE_Q8_0,
    [CACHE_Q4_0] = GGML_TYPE_Q4_0,
};

/* The cache type of a tensor; N_CACHE_TYPES where attention isn't computed over its type. */
INLINE enum cache_type cache_type_of(const struct ggml_tensor *t) {
    int i = 0;
    while (i < N_CACHE_TYPES && ggml_cache_types[i] != t->type) i++;
    return (enum cache_type)i;
}

/* Bytes of so many numbers, a multiple of QUANT_BLOCK. */
INLINE int cache_bytes(enum cache_type type, int numbers) {
    switch (type) {
        case CACHE_F16:
        case CACHE_BF16: return 2 * numbers;
        case CACHE_Q8_0: return numbers / QUANT_BLOCK * (2 + QUANT_BLOCK);
        case CACHE_Q4_0: return numbers / QUANT_BLOCK * (2 + QUANT_BLOCK / 2);
        case N_CACHE_TYPES: break;
    }
    return 0;
}

/* A block as two vectors of 16 numbers. A scale that is NaN or infinite makes all of them NaN or infinite. */
INLINE void load_block(enum cache_type type, const uint8_t *from, __m512 *to) {
    if (type == CACHE_F16) {
        to[0] = load_f16x16(from);
        to[1] = load_f16x16(from + 32);
    } else if (type == CACHE_BF16) {
        for (int i = 0; i < 2; i++) {
            const __m256i bits = _mm256_loadu_si256((const __m256i *)(from + 32 * i));
            to[i] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
        }
    } else {
        const __m512 scale = _mm512_cvtph_ps(_mm256_set1_epi16((short)load_f16_bits(from)));
        if (type == CACHE_Q8_0) {
            for (int i = 0; i < 2; i++) {
                const __m128i bytes = _mm_loadu_si128((const __m128i *)(from + 2 + 16 * i));
                to[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scale);
            }
        } else {
            /* Nibbles of 0 to 15 stand for -8 to 7. The low ones are the first 16 numbers. */
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(from + 2)), low = _mm_set1_epi8(15);
            const __m128i nibbles[2] = {_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16(bytes, 4), low)};
            const __m512 zero = _mm512_mul_ps(scale, _mm512_set1_ps(-8.0f));
            for (int i = 0; i < 2; i++)
                to[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(nibbles[i])), scale, zero);
        }
    }
}
