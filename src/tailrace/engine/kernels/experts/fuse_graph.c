/* The fused operations of a graph: see fuse_graph.h. */
#include "experts/fuse_graph.h"
#include "graph/plan.h"

enum { MAX_FUSED = 1024, N_SLOTS = 4 * MAX_FUSED };

/* Threads read them while no thread changes them. */
static struct fused_op fused[MAX_FUSED];
static int n_fused;
static int16_t slots[N_SLOTS]; /* by the first operation's address: its number in `fused`, from 1 on; 0: none */
static long n_computed[N_FUSED_KINDS];

/* How many operations of a kind this process has computed. */
EXPORT long tailrace_kernels_fused_count(int kind) { return kind >= 0 && kind < N_FUSED_KINDS ? n_computed[kind] : -1; }

static int slot_of(const struct ggml_tensor *first) {
    int slot = (int)(((uintptr_t)first >> 4) * 0x9e3779b97f4a7c15u >> 52) % N_SLOTS;
    while (slots[slot] && fused[slots[slot] - 1].first != first) slot = (slot + 1) % N_SLOTS;
    return slot;
}

const struct fused_op *fused_op_of(const struct ggml_compute_params *params, const struct ggml_tensor *first) {
    if (!has_plan(params) || !n_fused) return 0;
    const int16_t number = slots[slot_of(first)];
    return number ? fused + number - 1 : 0;
}

void fuse_graph(const struct ggml_cgraph *graph, const struct ggml_cplan *cplan) {
    for (int i = 0; i < graph->n_nodes && n_fused < MAX_FUSED; i++) {
        int last = i;
        if (!find_fused_op(graph, i, cplan->n_threads, cplan->work_size, fused + n_fused, &last)) continue;
        while (i < last) skip_operation(graph->nodes[++i]);
        slots[slot_of(fused[n_fused].first)] = (int16_t)(n_fused + 1);
        n_fused++;
    }
}

void forget_fused_ops(void) {
    if (!n_fused) return;
    for (int i = 0; i < n_fused; i++) n_computed[fused[i].kind]++;
    n_fused = 0;
    memset(slots, 0, sizeof slots);
}
