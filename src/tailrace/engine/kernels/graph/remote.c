/* Sends a worker the operations of a split alone: see remote.h.
 *
 * Upstream sends an operation with its sources, their sources and so on, also those that the worker has computed in
 * earlier splits. So each split of a step has all layers before it, and a step's bytes grow with the square of the
 * layers. The worker needs their addresses and shapes alone. While a split is written into a message here, sources
 * from outside are plain tensors. */
#include "graph/remote.h"

#include <stdlib.h>

#include "graph/splits.h"

/* A source from outside, as it is outside of this file. */
struct outsider {
    struct ggml_tensor *tensor;
    enum ggml_op op;
    struct ggml_tensor *src[GGML_MAX_SRC];
};

static _Thread_local struct {
    const struct ggml_tensor **members; /* a hash table of the split's operations */
    size_t n_slots;                     /* a power of two */
    struct outsider *outsiders;
    int count, capacity;
} split_state;

static size_t slot_of(const struct ggml_tensor *t) {
    size_t slot = (size_t)(((uintptr_t)t >> 4) * 0x9e3779b97f4a7c15u >> 32) & (split_state.n_slots - 1);
    while (split_state.members[slot] && split_state.members[slot] != t) slot = (slot + 1) & (split_state.n_slots - 1);
    return slot;
}

/* False where there is no memory. */
static bool find_members(const struct ggml_cgraph *split) {
    size_t wanted = 64;
    while (wanted < 2 * (size_t)split->n_nodes) wanted *= 2;
    if (wanted > split_state.n_slots) {
        free(split_state.members);
        split_state.n_slots = 0;
        split_state.members = malloc(wanted * sizeof *split_state.members);
        if (!split_state.members) return false;
        split_state.n_slots = wanted;
    }
    memset(split_state.members, 0, split_state.n_slots * sizeof *split_state.members);
    for (int i = 0; i < split->n_nodes; i++) split_state.members[slot_of(split->nodes[i])] = split->nodes[i];
    return true;
}

/* Make a source from outside a plain tensor, and what it is a view of. Without memory for it, it stays. */
static void detach(struct ggml_tensor *t) {
    for (; t && !split_state.members[slot_of(t)]; t = t->view_src) {
        if (t->op == GGML_OP_NONE) continue;
        if (split_state.count == split_state.capacity) {
            const int capacity = split_state.capacity ? 2 * split_state.capacity : 64;
            struct outsider *grown = realloc(split_state.outsiders, (size_t)capacity * sizeof *grown);
            if (!grown) return;
            split_state.outsiders = grown, split_state.capacity = capacity;
        }
        struct outsider *outsider = &split_state.outsiders[split_state.count++];
        outsider->tensor = t, outsider->op = t->op;
        memcpy(outsider->src, t->src, sizeof t->src);
        t->op = GGML_OP_NONE;
        memset(t->src, 0, sizeof t->src);
    }
}

static void attach_all(void) {
    while (split_state.count) {
        const struct outsider *outsider = &split_state.outsiders[--split_state.count];
        outsider->tensor->op = outsider->op;
        memcpy(outsider->tensor->src, outsider->src, sizeof outsider->src);
    }
}

bool is_remote(ggml_backend_t device) {
    const char *name = upstream.ggml_backend_name ? upstream.ggml_backend_name(device) : 0;
    return name && !strncmp(name, "RPC", 3);
}

enum ggml_status submit_split(ggml_backend_t device, struct ggml_cgraph *split) {
    if (!upstream.ggml_backend_graph_compute_async) return GGML_STATUS_FAILED;
    if (is_remote(device) && find_members(split))
        for (int i = 0; i < split->n_nodes; i++) {
            struct ggml_tensor *node = split->nodes[i];
            for (int s = 0; s < GGML_MAX_SRC; s++) detach(node->src[s]);
            detach(node->view_src);
        }
    const enum ggml_status status = upstream.ggml_backend_graph_compute_async(device, split);
    attach_all();
    return status;
}
