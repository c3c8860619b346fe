/* Attention masks on their way to a worker.
 *
 * llama.cpp sends a mask as a number for each token and cell: 16 MB for 512 tokens over 16,000 cells, where the tokens'
 * activations are 1 to 8 MB. A token sees few runs of cells, so these are sent. A worker with the kernels writes the
 * mask from them. */
#pragma once
#include "loading/ggml_api.h"

/* Send the mask as runs. False where it isn't one, or runs don't pay: nothing was sent. */
bool send_mask_runs(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size);

/* Write the mask whose runs `data` has. False where it is something else: nothing was written. */
bool receive_mask_runs(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size);
