/* Lets a device compute beside the CPU: ggml_backend_sched_graph_compute_async and ggml_backend_graph_compute_async.
 *
 * Upstream's scheduler cuts a graph into splits, one for each change of device, and computes them in order. Before the
 * CPU's split it waits for the device, and the device is idle until the CPU is done. But the device's next split may
 * begin with operations that don't read the CPU's results: shared experts beside routed experts on the CPU. These are
 * submitted here before the CPU's split is computed, and the others at their own place.
 *
 * Results are the same to the last bit: each device computes the same operations in the same order. Their memory is
 * theirs, too. The scheduler allocates a device's memory in this order, the CPU's split has none of it, and copies for
 * the CPU are made before. The copies for the rest of the split are allocated before its first operation. */
#include "graph/inputs.h"
#include "graph/remote.h"
#include "graph/splits.h"
#include "loading/ggml_api.h"

/* The graph that this thread computes, with a scheduler that has devices beside the CPU. */
static _Thread_local struct {
    ggml_backend_sched_t scheduler;
    ggml_backend_t cpu;
    struct ggml_cgraph *graph; /* 0: none */
    int begin, end;            /* the operations that were submitted ahead */
} current;

static long n_ahead;
/* How often a device has computed beside the CPU. */
EXPORT long tailrace_kernels_ahead_count(void) { return n_ahead; }

static bool is_off;
/* Compute in the scheduler's order, for comparison. */
EXPORT void tailrace_kernels_compute_in_order(bool in_order) { is_off = in_order; }

/* Whether `device` has computed `t` before its next split, or `t` is a weight of it. Views are as their source. */
static bool is_there(ggml_backend_t device, const struct ggml_tensor *t) {
    while (t->view_src) t = t->view_src;
    if (t->op != GGML_OP_NONE)
        return upstream.ggml_backend_sched_get_tensor_backend(current.scheduler, (struct ggml_tensor *)t) == device;
    /* Anything else may be a copy of what the CPU computes, or a KV cache. */
    return t->buffer && upstream.ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS &&
           !upstream.ggml_backend_buffer_is_host(t->buffer);
}

static bool has_all_sources(ggml_backend_t device, const struct ggml_tensor *operation) {
    for (int s = 0; s < GGML_MAX_SRC; s++)
        if (operation->src[s] && !is_there(device, operation->src[s])) return false;
    return !operation->view_src || is_there(device, operation);
}

/* Submit the first operations of the split that begins at `begin`, which follows the CPU's. */
static enum ggml_status submit_ahead(int begin) {
    struct ggml_cgraph *graph = current.graph;
    current.begin = current.end = begin;
    if (begin >= graph->n_nodes) return GGML_STATUS_SUCCESS;
    ggml_backend_t device = upstream.ggml_backend_sched_get_tensor_backend(current.scheduler, graph->nodes[begin]);
    if (!device || device == current.cpu) return GGML_STATUS_SUCCESS;
    int end = begin; /* behind the last operation that isn't a view */
    for (int i = begin; i < graph->n_nodes; i++) {
        struct ggml_tensor *node = graph->nodes[i];
        if (is_view_operation(node)) continue;
        if (upstream.ggml_backend_sched_get_tensor_backend(current.scheduler, node) != device ||
            !has_all_sources(device, node))
            break;
        end = i + 1;
    }
    if (end == begin) return GGML_STATUS_SUCCESS;
    current.end = end;
    n_ahead++;
    struct ggml_cgraph first = upstream.ggml_graph_view(graph, begin, end);
    return submit_split(device, &first);
}

EXPORT enum ggml_status ggml_backend_graph_compute_async(ggml_backend_t device, struct ggml_cgraph *split) {
    const struct ggml_cgraph *graph = current.graph;
    if (!graph || split->nodes < graph->nodes || split->nodes >= graph->nodes + graph->n_nodes)
        return submit_split(device, split);
    const int begin = (int)(split->nodes - graph->nodes);
    if (device == current.cpu) {
        const enum ggml_status status = submit_ahead(begin + split->n_nodes);
        return status == GGML_STATUS_SUCCESS ? submit_split(device, split) : status;
    }
    if (begin != current.begin || begin == current.end) return submit_split(device, split);
    const int done = current.end - begin;
    current.begin = current.end = 0;
    if (done == split->n_nodes) return GGML_STATUS_SUCCESS;
    struct ggml_cgraph rest = upstream.ggml_graph_view(split, done, split->n_nodes);
    return submit_split(device, &rest);
}

/* Whether the hooks above are of use, and have what they call. */
static bool can_compute_ahead(ggml_backend_sched_t scheduler) {
    return !is_off && has_splits(scheduler) && upstream.ggml_backend_sched_get_n_copies(scheduler) == 1 &&
           upstream.ggml_graph_view;
}

EXPORT enum ggml_status ggml_backend_sched_graph_compute_async(ggml_backend_sched_t scheduler,
                                                               struct ggml_cgraph *graph) {
    if (!upstream.ggml_backend_sched_graph_compute_async) return GGML_STATUS_FAILED;
    begin_inputs(scheduler);
    if (!can_compute_ahead(scheduler)) {
        const enum ggml_status status = upstream.ggml_backend_sched_graph_compute_async(scheduler, graph);
        end_inputs();
        return status;
    }
    current.scheduler = scheduler;
    current.cpu = cpu_of(scheduler);
    current.graph = graph;
    current.begin = current.end = 0;
    const enum ggml_status status = upstream.ggml_backend_sched_graph_compute_async(scheduler, graph);
    current.graph = 0;
    end_inputs();
    return status;
}
