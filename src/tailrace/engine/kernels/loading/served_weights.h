/* The weights that a worker has for engines on other machines.
 *
 * llama.cpp's RPC protocol doesn't say what a buffer is for. Here a buffer has weights until an operation's result is in
 * it, or a weight of it changes that has been repacked: KV caches and activations are computed. */
#pragma once
#include "loading/ggml_api.h"

/* The weights of one buffer that are repacked, as a model. */
struct served_model {
    int number;     /* of the model */
    int64_t budget; /* bytes that its repacked weights may still take */
};

/* Whether this process is a worker. */
bool serves_weights(void);

/* Note the buffers in which a graph's results will be. It comes before the graph is computed. */
void note_results(const struct ggml_cgraph *graph);

/* Whether a buffer has weights. */
bool has_served_weights(const struct ggml_backend_buffer *buffer);

/* The model of such a buffer; 0 where there are too many buffers. One thread calls it. */
struct served_model *served_model_of(const struct ggml_backend_buffer *buffer);

/* Note that the contents of a buffer change other than by an operation. */
void note_change(const struct ggml_backend_buffer *buffer);
