/* The operations of recurrent layers that are computed here, and how many were delegated to upstream. */
#pragma once
#include "loading/ggml_api.h"

#define RECURRENT_OPERATIONS(X)                                                                                        \
    X(gated_delta_net)                                                                                                 \
    X(ssm_scan)                                                                                                        \
    X(ssm_conv)                                                                                                        \
    X(concat)

#define OPERATION_NUMBER(name) OP_##name,
enum recurrent_operation { RECURRENT_OPERATIONS(OPERATION_NUMBER) N_RECURRENT_OPERATIONS };
#undef OPERATION_NUMBER

struct operation_counts {
    long own, upstream;
};
extern struct operation_counts operation_counts[N_RECURRENT_OPERATIONS];

/* Whether any operation on states was computed here. */
INLINE bool computes_states(void) {
    return operation_counts[OP_gated_delta_net].own || operation_counts[OP_ssm_scan].own;
}

/* Count an operation, and delegate it to upstream unless it is computed here. Whether it is. */
#define OWNS_OPERATION(name, computed, params, result)                                                                 \
    __extension__({                                                                                                    \
        const bool own_ = (computed);                                                                                  \
        struct operation_counts *counts_ = operation_counts + OP_##name;                                               \
        if ((params)->ith == 0) (own_ ? counts_->own++ : counts_->upstream++);                                         \
        if (!own_) {                                                                                                   \
            if (!upstream.ggml_compute_forward_##name) abort_without("ggml_compute_forward_" #name);                   \
            upstream.ggml_compute_forward_##name(params, result);                                                      \
        }                                                                                                              \
        own_;                                                                                                          \
    })

/* A tensor of single-precision numbers whose rows are contiguous. */
INLINE bool has_f32_rows(const struct ggml_tensor *t) {
    return t && t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float);
}

INLINE float *f32_at(const struct ggml_tensor *t, int64_t i1, int64_t i2, int64_t i3) {
    return (float *)((char *)t->data + i1 * (int64_t)t->nb[1] + i2 * (int64_t)t->nb[2] + i3 * (int64_t)t->nb[3]);
}

INLINE bool has_shape(const struct ggml_tensor *t, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    return t->ne[0] == n0 && t->ne[1] == n1 && t->ne[2] == n2 && t->ne[3] == n3;
}

INLINE int64_t n_numbers(const struct ggml_tensor *t) { return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]; }

/* Whether all numbers lie side by side. */
INLINE bool is_packed(const struct ggml_tensor *t) {
    size_t stride = sizeof(float);
    for (int i = 0; i < 4; stride *= (size_t)t->ne[i++])
        if (t->nb[i] != stride && t->ne[i] != 1) return false;
    return true;
}

/* ---- Work units -------------------------------------------------------------------------------------------------- */

/* Threads take long units one by one, because a core may be lost to another process for a while. Short ones have fixed
 * owners, which saves a barrier. */
#define MIN_LONG_TOKENS 16

struct unit_queue {
    const struct ggml_compute_params *params;
    bool counted;
    int64_t next;
};

INLINE struct unit_queue unit_queue(const struct ggml_compute_params *params, int64_t n_tokens) {
    struct unit_queue q = {params, n_tokens >= MIN_LONG_TOKENS && params->nth > 1 && can_share_work(params),
                           params->ith};
    if (q.counted) {
        if (params->ith == 0) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
        upstream.ggml_barrier(params->threadpool);
    }
    return q;
}

/* This thread's next unit; they rise. */
INLINE int64_t take_unit(struct unit_queue *q) {
    const int64_t unit = q->next;
    q->next = q->counted ? upstream.ggml_threadpool_chunk_add(q->params->threadpool, 1) : unit + q->params->nth;
    return unit;
}
