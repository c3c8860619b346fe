/* Products by expert in AMX tiles of bf16, for experts that many tokens of a prompt chose. */
#pragma once
#include "loading/ggml_api.h"
#include "loading/repack_layout.h"

/* Work memory of an operation for experts in tiles. */
struct expert_tiles {
    uint8_t *activations; /* of all experts that are computed in tiles; 0: none is */
    uint8_t *sums;        /* of this thread */
};

struct product;
struct chunk;

/* Bytes of work memory for a product by expert; 0 where none of it is computed in tiles. */
size_t expert_tile_bytes(int n_threads, const struct ggml_tensor *result);

/* Memory of so many bytes for this thread and all others. It begins at a multiple of 64 bytes. */
struct expert_tiles expert_tiles_in(uint8_t *memory, size_t bytes, int thread, int n_threads);

/* Whether an expert is computed in tiles. */
bool is_in_tiles(const struct product *p, int64_t expert);

/* Pack the activations `x` of the pair at a place of an expert, which is computed in tiles. */
void pack_pair(const struct product *p, int64_t expert, int64_t place, const float *x);

/* Compute a work chunk of an expert in tiles; `following` is the start of the thread's next one, or 0. */
void compute_tile_chunk(const struct product *p, const struct chunk *chunk, const uint8_t *following);
