/* ggml_backend_sched_split_graph: upstream assigns each operation of a graph to a device, by its weights and neighbours.
 * Two kinds are the CPU's here:
 *
 *   weighted sum of experts   Upstream gives it to the device that comes next, and so the outputs of each token's experts
 *                             are copied there, one by one. Only their sum is copied here, and the kernels compute it in
 *                             one operation.
 *   attention                 over a KV cache in host memory. Upstream wants it on the CPU, too, but it assigns the
 *                             reshaping behind it, which computes nothing; and so the cache is copied in each step. */
#include "graph/splits.h"
#include "loading/ggml_api.h"

/* Whether the CPU multiplies with these experts: their weights are in host memory, and no device has their copies made
 * for it, as GPUs do for prompts. */
static bool is_cpus_product(ggml_backend_sched_t scheduler, const struct ggml_tensor *product) {
    const struct ggml_tensor *weights = product->src[0];
    if (product->op != GGML_OP_MUL_MAT_ID || !weights->buffer ||
        upstream.ggml_backend_buffer_get_usage(weights->buffer) != GGML_BACKEND_BUFFER_USAGE_WEIGHTS ||
        !upstream.ggml_backend_buffer_is_host(weights->buffer))
        return false;
    const int n_devices = upstream.ggml_backend_sched_get_n_backends(scheduler) - 1;
    for (int d = 0; d < n_devices; d++)
        if (upstream.ggml_backend_offload_op(upstream.ggml_backend_sched_get_backend(scheduler, d), product))
            return false;
    return true;
}

/* The product by expert whose outputs `t` has, perhaps with a bias. */
static const struct ggml_tensor *product_of(const struct ggml_tensor *t) {
    return t->op == GGML_OP_ADD_ID ? t->src[0] : t;
}

/* Give the CPU the weighted sum that begins with node `index`, a multiplication of experts' outputs with weights. */
static void assign_sum(ggml_backend_sched_t scheduler, struct ggml_cgraph *graph, int index) {
    ggml_backend_t cpu = cpu_of(scheduler);
    struct ggml_tensor *product = graph->nodes[index];
    const struct ggml_tensor *sum = 0;
    upstream.ggml_backend_sched_set_tensor_backend(scheduler, product, cpu);
    for (int i = index + 1; i < graph->n_nodes; i++) {
        struct ggml_tensor *node = graph->nodes[i];
        if (node->op == GGML_OP_VIEW && node->view_src == product) {
            sum = sum ? sum : node;
        } else if (node->op == GGML_OP_ADD && sum && node->src[0] == sum && node->src[1]->op == GGML_OP_VIEW &&
                   node->src[1]->view_src == product) {
            sum = node;
            upstream.ggml_backend_sched_set_tensor_backend(scheduler, node, cpu);
        } else {
            return;
        }
    }
}

/* Whether the keys that an attention operation reads are in host memory. */
static bool is_over_host_cache(const struct ggml_tensor *attention) {
    const struct ggml_tensor *keys = attention->src[1];
    while (keys->view_src) keys = keys->view_src;
    return keys->op == GGML_OP_NONE && keys->buffer && upstream.ggml_backend_buffer_is_host(keys->buffer);
}

EXPORT void ggml_backend_sched_split_graph(ggml_backend_sched_t scheduler, struct ggml_cgraph *graph) {
    if (!upstream.ggml_backend_sched_split_graph) abort_without("ggml_backend_sched_split_graph");
    if (has_splits(scheduler) && upstream.ggml_backend_offload_op && upstream.ggml_backend_sched_set_tensor_backend)
        for (int i = 0; i < graph->n_nodes; i++) {
            struct ggml_tensor *node = graph->nodes[i];
            if (node->op == GGML_OP_MUL && is_cpus_product(scheduler, product_of(node->src[0])))
                assign_sum(scheduler, graph, i);
            if (node->op == GGML_OP_FLASH_ATTN_EXT && is_over_host_cache(node))
                upstream.ggml_backend_sched_set_tensor_backend(scheduler, node, cpu_of(scheduler));
        }
    upstream.ggml_backend_sched_split_graph(scheduler, graph);
}
