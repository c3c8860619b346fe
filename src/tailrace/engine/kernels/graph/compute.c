/* ggml_graph_compute: upstream computes each graph through it. Before that, the graph is planned: which operations are
 * computed together, and which states are updated in place. */
#include "experts/fuse_graph.h"
#include "graph/plan.h"
#include "loading/served_weights.h"
#include "recurrent/in_place.h"

EXPORT enum ggml_status ggml_graph_compute(struct ggml_cgraph *graph, struct ggml_cplan *cplan) {
    if (!upstream.ggml_graph_compute) return GGML_STATUS_FAILED; /* The loader refuses such a llama.cpp. */
    note_results(graph);
    if (!begin_plan(graph, cplan)) return upstream.ggml_graph_compute(graph, cplan);
    plan_states(graph);
    fuse_graph(graph, cplan);
    publish_plan();
    const enum ggml_status status = upstream.ggml_graph_compute(graph, cplan);
    forget_fused_ops();
    forget_states();
    end_plan();
    return status;
}
