/* ggml_backend_synchronize, and inputs without a wait: see inputs.h. */
#include "graph/inputs.h"

#include "graph/remote.h"

static _Thread_local ggml_backend_sched_t scheduler; /* 0: no graph is computed */

static bool is_off;
/* Wait as upstream does, for comparison. */
EXPORT void tailrace_kernels_wait_for_inputs(bool waits) { is_off = waits; }

void begin_inputs(ggml_backend_sched_t computing) {
    if (!is_off && upstream.ggml_backend_sched_get_n_backends && upstream.ggml_backend_sched_get_backend &&
        upstream.ggml_backend_tensor_set_async)
        scheduler = computing;
}

void end_inputs(void) { scheduler = 0; }

EXPORT void ggml_backend_synchronize(ggml_backend_t device) {
    if (!upstream.ggml_backend_synchronize) abort_without("ggml_backend_synchronize");
    if (!scheduler || !is_remote(device)) upstream.ggml_backend_synchronize(device);
}

/* The scheduler names a device's copy of an input `DEVICE#NAME#0`. */
static bool is_copy_for(ggml_backend_t device, const char *name) {
    if (!is_remote(device)) return false;
    const char *own = upstream.ggml_backend_name(device);
    const size_t length = strlen(own);
    return !strncmp(name, own, length) && name[length] == '#';
}

bool send_input(const struct ggml_tensor *copy, struct ggml_tensor *tensor, const void *data, size_t offset,
                size_t size) {
    if (!scheduler) return false;
    const int n = upstream.ggml_backend_sched_get_n_backends(scheduler);
    for (int i = 0; i < n; i++) {
        ggml_backend_t device = upstream.ggml_backend_sched_get_backend(scheduler, i);
        if (!is_copy_for(device, copy->name)) continue;
        upstream.ggml_backend_tensor_set_async(device, tensor, data, offset, size);
        return true;
    }
    return false;
}
