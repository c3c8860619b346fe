/* The graph that is being computed, and the operations of it that upstream skips because others compute their results.
 *
 * One graph at a time has a plan. Graphs that other threads compute at the same time have none: each of their operations
 * is computed alone. */
#pragma once
#include "loading/ggml_api.h"

/* Begin the plan of a graph. False where another thread's graph has one, or there is no memory. */
bool begin_plan(const struct ggml_cgraph *graph, struct ggml_cplan *cplan);

/* From here on `has_plan` is true for the threads of the graph. */
void publish_plan(void);

/* End the plan. The graph and `cplan` are as they were. */
void end_plan(void);

/* Whether a thread computes the graph that has the plan. */
bool has_plan(const struct ggml_compute_params *params);

/* Let upstream skip an operation of the graph. */
void skip_operation(const struct ggml_tensor *operation);

/* How many operations and views of the graph have `t` as a source. */
INLINE int uses_of(const struct ggml_cgraph *graph, const struct ggml_tensor *t) {
    const size_t at = ggml_hash_find(&graph->visited_hash_set, t);
    return at != GGML_HASHSET_FULL && ggml_bitset_get(graph->visited_hash_set.used, at) ? graph->use_counts[at] : 0;
}

/* The end of the memory of a tensor of 32-bit numbers. */
INLINE const char *end_of(const struct ggml_tensor *t) {
    size_t bytes = sizeof(float);
    for (int d = 0; d < GGML_MAX_DIMS; d++) bytes += t->ne[d] > 0 ? (size_t)(t->ne[d] - 1) * t->nb[d] : 0;
    return (const char *)t->data + bytes;
}
