/* ggml_graph_compute: upstream computes each graph through it. Before that, this file notes which operations of the
 * graph are computed together, and afterwards leaves the graph as it was. */
#include <stdatomic.h>
#include <stdlib.h>

#include "experts/fused_ops.h"
#include "experts/graph.h"
#include "recurrent/in_place.h"

enum { MAX_FUSED = 1024, N_SLOTS = 4 * MAX_FUSED };

/* Of the graph that is computed. Threads read them while no thread changes them. */
static struct fused_op fused[MAX_FUSED];
static int n_fused;
static int16_t slots[N_SLOTS]; /* by the first operation's address: its number in `fused`, from 1 on; 0: none */
/* Operations that have been computed with others. Upstream skips them as long as they don't have the flag. */
static struct ggml_tensor **skipped;
static int n_skipped, max_skipped;
static atomic_flag is_taken = ATOMIC_FLAG_INIT;
static long n_computed[N_FUSED_KINDS];

/* How many operations of a kind this process has computed. */
EXPORT long tailrace_kernels_fused_count(int kind) {
    return kind >= 0 && kind < N_FUSED_KINDS ? n_computed[kind] : -1;
}

static int slot_of(const struct ggml_tensor *first) {
    int slot = (int)(((uintptr_t)first >> 4) * 0x9e3779b97f4a7c15u >> 52) % N_SLOTS;
    while (slots[slot] && fused[slots[slot] - 1].first != first) slot = (slot + 1) % N_SLOTS;
    return slot;
}

const struct fused_op *fused_op_of(const struct ggml_tensor *first) {
    if (!n_fused) return 0;
    const int16_t number = slots[slot_of(first)];
    return number ? fused + number - 1 : 0;
}

/* Let upstream skip the operations behind `first`, up to `last`. */
static bool skip_nodes(const struct ggml_cgraph *graph, int first, int last) {
    if (n_skipped + last - first > max_skipped) {
        const int more = 2 * (n_skipped + last - first);
        struct ggml_tensor **grown = realloc(skipped, (size_t)more * sizeof *grown);
        if (!grown) return false;
        skipped = grown, max_skipped = more;
    }
    for (int i = first + 1; i <= last; i++) {
        struct ggml_tensor *node = graph->nodes[i];
        if (!(node->flags & GGML_TENSOR_FLAG_COMPUTE)) continue;
        node->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
        skipped[n_skipped++] = node;
    }
    return true;
}

static void fuse_graph(const struct ggml_cgraph *graph, const struct ggml_cplan *plan) {
    for (int i = 0; i < graph->n_nodes && n_fused < MAX_FUSED; i++) {
        int last = i;
        if (!find_fused_op(graph, i, plan->n_threads, plan->work_size, fused + n_fused, &last)) continue;
        if (!skip_nodes(graph, i, last)) return;
        slots[slot_of(graph->nodes[i])] = (int16_t)++n_fused;
        i = last;
    }
}

static void restore_graph(void) {
    for (int i = 0; i < n_fused; i++) n_computed[fused[i].kind]++;
    for (int i = 0; i < n_skipped; i++) skipped[i]->flags |= GGML_TENSOR_FLAG_COMPUTE;
    n_skipped = n_fused = 0;
    memset(slots, 0, sizeof slots);
}

EXPORT enum ggml_status ggml_graph_compute(struct ggml_cgraph *graph, struct ggml_cplan *plan) {
    if (!upstream.ggml_graph_compute) return GGML_STATUS_FAILED; /* The loader refuses such a llama.cpp. */
    /* Another thread's graph at the same time is computed operation by operation. */
    if (plan->use_ref || atomic_flag_test_and_set(&is_taken)) return upstream.ggml_graph_compute(graph, plan);
    plan_states(graph);
    fuse_graph(graph, plan);
    const enum ggml_status status = upstream.ggml_graph_compute(graph, plan);
    restore_graph();
    end_state_plan();
    atomic_flag_clear(&is_taken);
    return status;
}
