/* The plan of a graph: see plan.h. */
#include "graph/plan.h"

#include <stdatomic.h>
#include <stdlib.h>

static atomic_flag is_taken = ATOMIC_FLAG_INIT;
/* The graph, and its work memory, which no other graph has at the same time, once the plan is published. */
static struct ggml_cplan *planned;
static _Atomic(const void *) planned_work;
/* The work memory of a graph that needs none. */
static uint8_t no_work[64];
/* Upstream computes operations that have the flag GGML_TENSOR_FLAG_COMPUTE. These had it. */
static struct ggml_tensor **skipped;
static int n_skipped, max_skipped;

bool begin_plan(const struct ggml_cgraph *graph, struct ggml_cplan *cplan) {
    if (cplan->use_ref || !graph->use_counts || atomic_flag_test_and_set(&is_taken)) return false;
    if (graph->n_nodes > max_skipped) {
        struct ggml_tensor **grown = realloc(skipped, (size_t)graph->n_nodes * sizeof *grown);
        if (!grown) {
            atomic_flag_clear(&is_taken);
            return false;
        }
        skipped = grown, max_skipped = graph->n_nodes;
    }
    planned = cplan;
    if (!cplan->work_data) cplan->work_data = no_work;
    return true;
}

void publish_plan(void) { atomic_store(&planned_work, planned->work_data); }

void end_plan(void) {
    atomic_store(&planned_work, 0);
    if (planned->work_data == no_work) planned->work_data = 0;
    while (n_skipped) skipped[--n_skipped]->flags |= GGML_TENSOR_FLAG_COMPUTE;
    atomic_flag_clear(&is_taken);
}

bool has_plan(const struct ggml_compute_params *params) {
    return params->wdata && params->wdata == atomic_load_explicit(&planned_work, memory_order_acquire);
}

void skip_operation(const struct ggml_tensor *operation) {
    if (!(operation->flags & GGML_TENSOR_FLAG_COMPUTE)) return;
    struct ggml_tensor *t = skipped[n_skipped++] = (struct ggml_tensor *)operation;
    t->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
}
