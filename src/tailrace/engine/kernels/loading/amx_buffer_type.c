/* ggml_backend_amx_buffer_type, a C++ function: upstream compares each product's weights with it, twice for each thread,
 * and asks the kernel for the permission to use AMX each time. That is a system call, some 400 of them in a step. */
#include <stdatomic.h>

#include "loading/ggml_api.h"

EXPORT ggml_backend_buffer_type_t AMX_BUFFER_TYPE(void) {
    static _Atomic(ggml_backend_buffer_type_t) known;
    ggml_backend_buffer_type_t found = atomic_load_explicit(&known, memory_order_acquire);
    if (!found && upstream.AMX_BUFFER_TYPE) {
        found = upstream.AMX_BUFFER_TYPE();
        atomic_store_explicit(&known, found, memory_order_release);
    }
    return found;
}
