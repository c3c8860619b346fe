/* Finds operations of a graph that can be computed together: see fused_ops.h.
 *
 * The results in between must have no other use. The last result is written earlier than the graph says, when memory
 * that upstream's allocation gives to it may still hold an input. So it must not overlap what is read until then. */
#include "experts/fused_ops.h"
#include "graph/plan.h"
#include "loading/repack.h"

#define MAX_USED 64 /* experts of a token */

static bool is_used_only(const struct ggml_cgraph *graph, const struct ggml_tensor *t, int times) {
    return !(t->flags & GGML_TENSOR_FLAG_OUTPUT) && uses_of(graph, t) == times;
}

static const struct ggml_tensor *node_at(const struct ggml_cgraph *graph, int index) {
    return index < graph->n_nodes ? graph->nodes[index] : 0;
}

static bool overlap(const struct ggml_tensor *a, const struct ggml_tensor *b) {
    return (const char *)a->data < end_of(b) && (const char *)b->data < end_of(a);
}

static bool is_f32(const struct ggml_tensor *t) { return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float); }

/* ---- Weighted sum ------------------------------------------------------------------------------------------------ */

/* A product with the weights, a view of each expert's part, and additions of these views one after the other. */
static bool find_weighted_sum(const struct ggml_cgraph *graph, int index, struct weighted_sum *found, int *last) {
    const struct ggml_tensor *product = graph->nodes[index], *outputs = product->src[0], *weights = product->src[1];
    const int64_t n = outputs->ne[1];
    if (!is_f32(product) || !is_f32(outputs) || !is_f32(weights) || n < 2 || n > MAX_USED ||
        index + 2 * n > graph->n_nodes || product->ne[3] != 1 || weights->ne[0] != 1 || weights->ne[1] != n ||
        weights->ne[2] != outputs->ne[2] || weights->ne[3] != 1 ||
        memcmp(product->ne, outputs->ne, sizeof product->ne) || !is_used_only(graph, product, (int)n))
        return false;
    const struct ggml_tensor *sum = 0;
    for (int k = 0; k < n; k++) {
        const struct ggml_tensor *view = graph->nodes[index + 1 + k];
        if (view->op != GGML_OP_VIEW || view->src[0] != product || !is_f32(view) || view->ne[0] != product->ne[0] ||
            view->ne[1] != product->ne[2] || view->ne[2] != 1 || view->ne[3] != 1 || view->nb[1] != product->nb[2] ||
            (const char *)view->data != (const char *)product->data + (size_t)k * product->nb[1] ||
            !is_used_only(graph, view, 1))
            return false;
        if (!k) {
            sum = view;
            continue;
        }
        const struct ggml_tensor *add = graph->nodes[index + (int)n + k];
        if (add->op != GGML_OP_ADD || add->src[0] != sum || add->src[1] != view || !is_f32(add) ||
            (k + 1 < n && !is_used_only(graph, add, 1)))
            return false;
        sum = add;
    }
    *last = index + 2 * (int)n - 1;
    *found = (struct weighted_sum){outputs, weights, graph->nodes[*last]};
    return sum && !overlap(sum, outputs) && !overlap(sum, weights);
}

/* ---- Top experts ------------------------------------------------------------------------------------------------- */

static bool find_top_experts(const struct ggml_cgraph *graph, int index, struct top_experts *found, int *last) {
    struct ggml_tensor *order = graph->nodes[index];
    const struct ggml_tensor *view = node_at(graph, index + 1), *scores = order->src[0];
    if (order->op_params[0] != GGML_SORT_ORDER_DESC || !is_f32(scores) || scores->ne[2] != 1 || scores->ne[3] != 1 ||
        scores->ne[0] > INT32_MAX || order->nb[0] != sizeof(int32_t) || !view || view->op != GGML_OP_VIEW ||
        view->src[0] != order || view->data != order->data || view->ne[0] < 1 || view->ne[0] > MAX_USED ||
        view->ne[0] > scores->ne[0] || view->ne[1] != order->ne[1] || view->nb[1] != order->nb[1] ||
        !is_used_only(graph, order, 1))
        return false;
    *last = index;
    *found = (struct top_experts){order, view->ne[0]};
    return true;
}

/* ---- Gated product ----------------------------------------------------------------------------------------------- */

/* The matrix that `t` is a product by expert with, perhaps with a bias. Reduces `left`, the number of operations that
 * aren't found yet, by those that `t` is. */
static bool find_product(const struct ggml_cgraph *graph, const struct ggml_tensor *t, int uses, struct expert_op *op,
                         struct expert_matrix *matrix, int *left) {
    const struct ggml_tensor *bias = 0;
    if (t->op == GGML_OP_ADD_ID) {
        bias = t->src[1];
        if (bias->op != GGML_OP_NONE || !is_f32(bias) || bias->ne[2] != 1 || bias->ne[3] != 1 ||
            !is_used_only(graph, t, uses))
            return false;
        const struct ggml_tensor *ids = t->src[2];
        t = t->src[0], uses = 1, --*left;
        if (ids != t->src[2]) return false;
    }
    if (t->op != GGML_OP_MUL_MAT_ID || !is_used_only(graph, t, uses)) return false;
    --*left;
    const struct repacked *repacked = repacked_of(t->src[0]);
    if (!repacked || (bias && (bias->ne[0] != t->ne[0] || bias->ne[1] < t->src[0]->ne[2]))) return false;
    if (op->product &&
        (op->product->src[1] != t->src[1] || op->product->src[2] != t->src[2] ||
         op->matrices[0].repacked->format != repacked->format || op->product->src[0]->ne[2] != t->src[0]->ne[2]))
        return false;
    *matrix = (struct expert_matrix){t->src[0], repacked, bias, 0, t->ne[0]};
    op->product = op->product ? op->product : t;
    return true;
}

/* Both halves of one product: a view of the first rows, and one of the others. */
static bool find_halves(const struct ggml_cgraph *graph, const struct ggml_tensor *gate, const struct ggml_tensor *up,
                        struct expert_op *op, int *left) {
    const struct ggml_tensor *both = gate->src[0];
    if (both != up->src[0] || gate->data != both->data || !is_f32(gate) || !is_f32(up) ||
        2 * gate->ne[0] != both->ne[0] || gate->nb[1] != both->nb[1] || up->nb[1] != both->nb[1] ||
        gate->nb[2] != both->nb[2] || up->nb[2] != both->nb[2] || gate->ne[0] % GROUP_ROWS ||
        (const char *)up->data != (const char *)both->data + (size_t)gate->ne[0] * sizeof(float) ||
        !is_used_only(graph, gate, 1) || !is_used_only(graph, up, 1) ||
        !find_product(graph, both, 2, op, op->matrices, left))
        return false;
    op->matrices[1] = op->matrices[0];
    op->matrices[1].first_row = gate->ne[0];
    return true;
}

static bool find_gate(const struct ggml_tensor *gated, struct expert_op *op) {
    const enum ggml_glu_op gate = (enum ggml_glu_op)gated->op_params[0];
    op->gate = gate == GGML_GLU_OP_SWIGLU ? SWIGLU : SWIGLU_OAI;
    memcpy(&op->alpha, gated->op_params + 2, sizeof op->alpha);
    memcpy(&op->limit, gated->op_params + 3, sizeof op->limit);
    return gated->src[1] && is_f32(gated) && (gate == GGML_GLU_OP_SWIGLU || gate == GGML_GLU_OP_SWIGLU_OAI);
}

static bool find_gated_product(const struct ggml_cgraph *graph, int index, int n_threads, size_t work_bytes,
                               struct expert_op *op, int *last) {
    int left = 0;
    struct ggml_tensor *gated = 0;
    for (int i = index; !gated && i < graph->n_nodes && left < 5; i++) {
        struct ggml_tensor *node = graph->nodes[i];
        if (node->op == GGML_OP_GLU) gated = node, *last = i;
        else if (node->op == GGML_OP_MUL_MAT_ID || node->op == GGML_OP_ADD_ID) left++;
        else if (node->op != GGML_OP_VIEW) return false;
    }
    *op = (struct expert_op){.n_matrices = 2, .result = gated};
    if (!gated || !find_gate(gated, op)) return false;
    const struct ggml_tensor *gate = gated->src[0], *up = gated->src[1];
    const bool found = gate->op == GGML_OP_VIEW && up->op == GGML_OP_VIEW
                           ? find_halves(graph, gate, up, op, &left)
                           : find_product(graph, gate, 1, op, op->matrices, &left) &&
                                 find_product(graph, up, 1, op, op->matrices + 1, &left);
    /* No other operation may be in between. */
    if (!found || left || gate->ne[0] != up->ne[0] || gate->ne[0] != gated->ne[0]) return false;
    op->activations = op->product->src[1], op->ids = op->product->src[2];
    op->n_experts = op->product->src[0]->ne[2];
    return can_compute_expert_op(op, n_threads, work_bytes) && !overlap(gated, op->ids);
}

bool find_fused_op(const struct ggml_cgraph *graph, int index, int n_threads, size_t work_bytes, struct fused_op *found,
                   int *last) {
    const struct ggml_tensor *node = graph->nodes[index];
    found->first = node;
    switch (node->op) {
        case GGML_OP_MUL_MAT_ID:
            found->kind = GATED_PRODUCT;
            return find_gated_product(graph, index, n_threads, work_bytes, &found->gated_product, last);
        case GGML_OP_MUL:
            found->kind = WEIGHTED_SUM;
            return find_weighted_sum(graph, index, &found->weighted_sum, last);
        case GGML_OP_ARGSORT:
            found->kind = TOP_EXPERTS;
            return find_top_experts(graph, index, &found->top_experts, last);
        default: return false;
    }
}
