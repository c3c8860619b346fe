/* The types of the KV cache that attention reads: how keys and values are stored, and loads of floats.
 *
 * K and V may have different types. Floats are converted exactly. Quantised numbers stay integers: word_products.h
 * multiplies them with queries and probabilities of 16 bits. */
#pragma once
#include "attention/scratch.h"
#include "loading/ggml_api.h"

/* TILE_F32 is a tile in the scratch buffers. A KV cache has no single precision, because upstream converts such keys to
 * 16 bits. */
enum cache_type { CACHE_F16, CACHE_BF16, CACHE_Q8_0, CACHE_Q4_0, N_CACHE_TYPES, TILE_F32 = N_CACHE_TYPES };

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

INLINE bool is_quantised(enum cache_type type) { return type == CACHE_Q8_0 || type == CACHE_Q4_0; }

/* Bytes of so many numbers, in quantised types a multiple of QUANT_BLOCK. */
INLINE int cache_bytes(enum cache_type type, int numbers) {
    switch (type) {
        case CACHE_F16:
        case CACHE_BF16: return 2 * numbers;
        case CACHE_Q8_0: return numbers / QUANT_BLOCK * (2 + QUANT_BLOCK);
        case CACHE_Q4_0: return numbers / QUANT_BLOCK * (2 + QUANT_BLOCK / 2);
        case TILE_F32: return 4 * numbers;
    }
    return 0;
}

/* VF_LANES numbers of a cell of floats, from number d on. */
INLINE vf load_numbers(enum cache_type type, const uint8_t *cell, int d) {
    switch (type) {
        case CACHE_F16: return vf_load_f16(cell + 2 * d);
        case CACHE_BF16: return vf_load_bf16(cell + 2 * d);
        case TILE_F32: return vf_load((const float *)cell + d);
        case CACHE_Q8_0:
        case CACHE_Q4_0: break; /* word_products.h */
    }
    return vf_zero();
}

/* The same for the last numbers of a cell, `left` of which exist, a multiple of eight: the other lanes are 0.
 */
INLINE vf load_last_numbers(enum cache_type type, const uint8_t *cell, int d, int left) {
    if (left >= VF_LANES || type == TILE_F32) return load_numbers(type, cell, d); /* rows of tiles are padded */
    return type == CACHE_BF16 ? vf_load_bf16_eight(cell + 2 * d) : vf_load_f16_eight(cell + 2 * d);
}

/* Cells of a tile in one key head: number i is at `base + list[i] * stride`. Those of the scratch buffers lie in order
 * and have no list. */
struct tile_cells {
    const uint8_t *base;
    size_t stride;
    const uint32_t *list;
    int n, dim;
};

INLINE const uint8_t *cell_at(enum cache_type type, struct tile_cells cells, int i) {
    return cells.base + (type == TILE_F32 ? (uint32_t)i : cells.list[i]) * cells.stride;
}
