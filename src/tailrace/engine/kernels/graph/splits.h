/* Upstream's scheduler as the hooks of this folder see it. */
#pragma once
#include "loading/ggml_api.h"

/* Operations that compute nothing. */
INLINE bool is_view_operation(const struct ggml_tensor *t) {
    return t->op == GGML_OP_NONE || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW || t->op == GGML_OP_PERMUTE ||
           t->op == GGML_OP_TRANSPOSE;
}

/* Whether the scheduler has devices beside the CPU, and upstream has the functions that tell of its splits. */
INLINE bool has_splits(ggml_backend_sched_t scheduler) {
    return upstream.ggml_backend_sched_get_n_backends && upstream.ggml_backend_sched_get_backend &&
           upstream.ggml_backend_sched_get_tensor_backend && upstream.ggml_backend_sched_get_n_copies &&
           upstream.ggml_backend_sched_get_n_backends(scheduler) > 1;
}

/* The CPU is a scheduler's last device. */
INLINE ggml_backend_t cpu_of(ggml_backend_sched_t scheduler) {
    return upstream.ggml_backend_sched_get_backend(scheduler,
                                                   upstream.ggml_backend_sched_get_n_backends(scheduler) - 1);
}
