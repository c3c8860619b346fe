/* Copies of states that a graph needn't make.
 *
 * A graph gathers the states of its sequences from the cache, updates them, and copies them back. At eight sequences
 * that moves six times the states' bytes, which is up to a third of a step. Where nothing else in the graph sees the
 * difference, and the sequences' states lie side by side, the update reads and writes the cache, and the two copies are
 * left out. The graph is planned before its threads start, and the plan is dropped when they end. */
#include "recurrent/in_place.h"
#include "graph/plan.h"

#define MAX_OPERATIONS 256
#define MAX_DISTANCE   64   /* of nodes between an operation and the last one that uses its result */
#define MAX_OTHERS     8    /* accesses to a cache between gathering and copying back */
#define N_ENTRIES      1024 /* of the table, a power of two, more than MAX_OPERATIONS */

struct plan {
    struct state_operation states;
    const struct ggml_tensor *result, *copy;
    const struct ggml_tensor *others[MAX_OTHERS]; /* operations that read other rows of the cache or write to them */
    int n_others, uses, index;
    bool possible;
};

static struct plan plans[MAX_OPERATIONS];
static int n_plans;

/* By operation: the rows of those that are computed in place. Threads read it while no thread changes it. */
static struct entry {
    const struct ggml_tensor *operation;
    float *rows;
} table[N_ENTRIES];

INLINE struct entry *entry_of(const struct ggml_tensor *operation) {
    size_t i = ((uintptr_t)operation >> 4) * 2654435761u;
    while (table[i % N_ENTRIES].operation && table[i % N_ENTRIES].operation != operation) i++;
    return table + i % N_ENTRIES;
}

/* How many operations were computed in place. */
static long n_in_place;
EXPORT long tailrace_kernels_states_in_place(void) { return n_in_place; }

float *rows_in_place(const struct ggml_compute_params *params, const struct ggml_tensor *result) {
    return has_plan(params) && n_plans ? entry_of(result)->rows : 0;
}

/* ---- Planning ---------------------------------------------------------------------------------------------------- */

INLINE const struct ggml_tensor *memory_of(const struct ggml_tensor *t) {
    while (t->view_src) t = t->view_src;
    return t;
}

/* Operations that compute nothing. */
INLINE bool is_view(const struct ggml_tensor *t) {
    return t->op == GGML_OP_NONE || t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE ||
           t->op == GGML_OP_TRANSPOSE;
}

/* Note an operation that reads the cache or writes to it while the plan differs from the graph. */
static void note_access(struct plan *p, const struct ggml_tensor *t) {
    const struct ggml_tensor *cache = p->states.cache;
    if (is_view(t) || !n_numbers(t)) return;
    bool accesses = memory_of(t) == cache;
    for (int i = 0; i < GGML_MAX_SRC; i++) accesses |= t->src[i] && memory_of(t->src[i]) == cache;
    if (!accesses) return;
    if ((t->op != GGML_OP_CPY && t->op != GGML_OP_GET_ROWS) || p->n_others == MAX_OTHERS) p->possible = false;
    else p->others[p->n_others++] = t;
}

/* Note a node behind the operation of a plan. The new states may be seen by one view, which is copied to the cache and
 * has no other use. */
static void note_node(struct plan *p, const struct ggml_cgraph *graph, const struct ggml_tensor *t) {
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (t->src[i] != p->result) continue;
        p->uses--;
        if (!is_view(t)) p->possible = false;
    }
    if (memory_of(t) == p->result && end_of(t) > p->states.new_states &&
        (t->data != p->states.new_states || uses_of(graph, t) != 1 || (t->flags & GGML_TENSOR_FLAG_OUTPUT)))
        p->possible = false;
    if (p->copy) return; /* The cache is what it would be without the plan. */
    if (t->op == GGML_OP_CPY && memory_of(t->src[0]) == p->result && t->src[0]->data == p->states.new_states)
        p->copy = t;
    else note_access(p, t);
}

/* Whether an operation leaves rows `first` to `end` of the cache alone. */
static bool spares_rows(const struct plan *p, const struct ggml_tensor *t, const char *first, const char *end) {
    if (t->op == GGML_OP_CPY) {
        if (memory_of(t->src[0]) == p->states.cache) return false;
        return end_of(t) <= first || (const char *)t->data >= end || !n_numbers(t);
    }
    const struct ggml_tensor *rows = t->src[0], *ids = t->src[1];
    if (rows->data != p->states.cache->data || ids->type != GGML_TYPE_I32 || memory_of(ids)->op != GGML_OP_NONE)
        return false;
    if (ids->ne[1] * ids->ne[2] * ids->ne[3] != 1 || ids->nb[0] != sizeof(int32_t)) return false;
    for (int64_t i = 0; i < ids->ne[0]; i++) {
        const char *row = (const char *)rows->data + ((const int32_t *)ids->data)[i] * (int64_t)rows->nb[1];
        if (row + rows->nb[1] > first && row < end) return false;
    }
    return true;
}

/* The rows of a plan that can be followed, else 0. */
static float *rows_of(const struct plan *p) {
    const struct state_operation *s = &p->states;
    if (!p->possible || !p->copy || p->uses) return 0;
    const struct ggml_tensor *to = p->copy->src[1], *ids = s->ids;
    const int64_t numbers = s->sequences * s->state_numbers;
    if (!numbers) return 0;
    if (to->type != GGML_TYPE_F32 || memory_of(to) != s->cache || !is_packed(to) || n_numbers(to) != numbers) return 0;
    if (p->copy->src[0]->type != GGML_TYPE_F32 || !is_packed(p->copy->src[0])) return 0;
    const int64_t row_bytes = s->state_numbers * (int64_t)sizeof(float);
    const char *first = to->data, *end = first + numbers * (int64_t)sizeof(float);
    const int64_t offset = first - (const char *)s->cache->data;
    if (offset % row_bytes || ids->type != GGML_TYPE_I32 || memory_of(ids)->op != GGML_OP_NONE) return 0;
    for (int64_t i = 0; i < s->sequences; i++)
        if (((const int32_t *)ids->data)[i] != offset / row_bytes + i) return 0;
    for (int i = 0; i < p->n_others; i++)
        if (!spares_rows(p, p->others[i], first, end)) return 0;
    return to->data;
}

/* Plan the operation at `index`, which is one on states. */
static void begin_state_plan(const struct ggml_cgraph *graph, int index) {
    const struct ggml_tensor *result = graph->nodes[index];
    struct plan *p = plans + n_plans;
    *p = (struct plan){.result = result, .index = index, .possible = true};
    const bool known =
        result->op == GGML_OP_SSM_SCAN ? ssm_scan_states(result, &p->states) : delta_net_states(result, &p->states);
    if (!known || p->states.cache->op != GGML_OP_NONE || (result->flags & GGML_TENSOR_FLAG_OUTPUT)) return;
    p->uses = uses_of(graph, result);
    if (p->states.gather) {
        /* What was gathered is used by this operation alone, through views. */
        for (const struct ggml_tensor *t = result->src[5]; t; t = t == p->states.gather ? 0 : t->src[0])
            if (uses_of(graph, t) != 1 || (t->flags & GGML_TENSOR_FLAG_OUTPUT)) return;
        int from = index - 1;
        while (from >= 0 && graph->nodes[from] != p->states.gather) note_access(p, graph->nodes[from--]);
        if (from < 0) return;
    }
    n_plans++;
}

INLINE bool is_state_operation(const struct ggml_tensor *t) {
    return t->op == GGML_OP_SSM_SCAN || t->op == GGML_OP_GATED_DELTA_NET;
}

void plan_states(const struct ggml_cgraph *graph) {
    /* Models without such layers don't pay for the look at their graphs. */
    if (!computes_states()) return;
    int first = 0; /* of the plans for which something is still to come */
    for (int i = 0; i < graph->n_nodes; i++) {
        const struct ggml_tensor *t = graph->nodes[i];
        for (int n = first; n < n_plans; n++) note_node(plans + n, graph, t);
        while (first < n_plans && ((plans[first].copy && !plans[first].uses) || i - plans[first].index > MAX_DISTANCE))
            first++;
        if (is_state_operation(t) && n_plans < MAX_OPERATIONS) begin_state_plan(graph, i);
    }
    for (int n = 0; n < n_plans; n++) {
        float *rows = rows_of(plans + n);
        if (!rows) continue;
        n_in_place++;
        *entry_of(plans[n].result) = (struct entry){plans[n].result, rows};
        skip_operation(plans[n].copy);
        if (plans[n].states.gather) skip_operation(plans[n].states.gather);
    }
}

void forget_states(void) {
    if (!n_plans) return;
    memset(table, 0, sizeof table);
    n_plans = 0;
}
