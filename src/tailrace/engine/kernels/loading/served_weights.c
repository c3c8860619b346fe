/* Which buffers of a worker have weights: see served_weights.h. One thread serves, and it changes and frees buffers only
 * while nothing is computed. */
#include "loading/served_weights.h"

#include "graph/splits.h"
#include "loading/repack.h"

#define MAX_BUFFERS 64
/* Engines in the same process number their models from 1. */
#define FIRST_MODEL (1 << 24)

static struct served_buffer {
    const struct ggml_backend_buffer *buffer;
    bool has_results;
    struct served_model model; /* 0: nothing of it is repacked */
} buffers[MAX_BUFFERS];
static int n_buffers, n_models;

/* How many bytes repacked weights may take now; 0: this process is no worker. */
static int64_t (*capacity)(void);

/* Repack the weights that clients send from now on, up to what `bytes` returns when the first of a buffer is wanted. A
 * thread that computes calls it. */
EXPORT void tailrace_kernels_serve_weights(int64_t (*bytes)(void)) { capacity = bytes; }

bool serves_weights(void) { return capacity != 0; }

static struct served_buffer *find(const struct ggml_backend_buffer *buffer) {
    for (int i = 0; i < n_buffers; i++)
        if (buffers[i].buffer == buffer) return buffers + i;
    return 0;
}

static struct served_buffer *find_or_add(const struct ggml_backend_buffer *buffer) {
    struct served_buffer *found = find(buffer);
    if (found || n_buffers == MAX_BUFFERS) return found;
    buffers[n_buffers] = (struct served_buffer){.buffer = buffer};
    return buffers + n_buffers++;
}

void note_results(const struct ggml_cgraph *graph) {
    if (!serves_weights()) return;
    const struct ggml_backend_buffer *last = 0;
    for (int i = 0; i < graph->n_nodes; i++) {
        const struct ggml_tensor *node = graph->nodes[i];
        if (!node->buffer || node->buffer == last || is_view_operation(node)) continue;
        struct served_buffer *found = find_or_add(last = node->buffer);
        if (found) found->has_results = true;
    }
}

bool has_served_weights(const struct ggml_backend_buffer *buffer) {
    if (!serves_weights()) return false;
    const struct served_buffer *found = find(buffer);
    return found ? !found->has_results : n_buffers < MAX_BUFFERS;
}

struct served_model *served_model_of(const struct ggml_backend_buffer *buffer) {
    struct served_buffer *found = find_or_add(buffer);
    if (!found) return 0;
    if (!found->model.number) found->model = (struct served_model){FIRST_MODEL + ++n_models, capacity()};
    return &found->model;
}

/* The bytes of all weights that are repacked for clients. */
EXPORT int64_t tailrace_kernels_served_bytes(void) {
    int64_t bytes = 0;
    for (int i = 0; i < n_buffers; i++)
        if (buffers[i].model.number) bytes += tailrace_kernels_repacked_bytes(buffers[i].model.number);
    return bytes;
}

/* ---- Changes ----------------------------------------------------------------------------------------------------- */

/* The buffer's contents change. Where weights of it were repacked, they are as sent from now on. */
void note_change(const struct ggml_backend_buffer *buffer) {
    struct served_buffer *found = serves_weights() ? find(buffer) : 0;
    if (!found || !found->model.number) return;
    tailrace_kernels_free_repacked(found->model.number);
    *found = (struct served_buffer){.buffer = buffer, .has_results = true};
}

/* The buffer is freed: another may get its address. */
static void note_end(const struct ggml_backend_buffer *buffer) {
    struct served_buffer *found = serves_weights() ? find(buffer) : 0;
    if (!found) return;
    if (found->model.number) tailrace_kernels_free_repacked(found->model.number);
    *found = buffers[--n_buffers];
}

/* Replace upstream's function by one that first notes what it does to a buffer. */
#define NOTED(name, parameters, arguments, note)                                                                       \
    EXPORT void name parameters {                                                                                      \
        if (!upstream.name) abort_without(#name);                                                                      \
        note;                                                                                                          \
        upstream.name arguments;                                                                                       \
    }

NOTED(ggml_backend_tensor_memset, (struct ggml_tensor * tensor, uint8_t value, size_t offset, size_t size),
      (tensor, value, offset, size), note_change(tensor->buffer))
NOTED(ggml_backend_buffer_free, (ggml_backend_buffer_t buffer), (buffer), note_end(buffer))
