/* Where the fields of ggml's structs lie, and the numbers of its operations, for Python: computed by a compiler from llama.cpp's own headers. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ggml-cpu-impl.h"
#include "ggml.h"

/* struct, field, number of elements */
#define FIELDS(X)                                                                                                      \
    X(ggml_tensor, type, 1)                                                                                            \
    X(ggml_tensor, buffer, 1)                                                                                          \
    X(ggml_tensor, op, 1)                                                                                              \
    X(ggml_tensor, ne, GGML_MAX_DIMS)                                                                                  \
    X(ggml_tensor, nb, GGML_MAX_DIMS)                                                                                  \
    X(ggml_tensor, op_params, GGML_MAX_OP_PARAMS / 4)                                                                  \
    X(ggml_tensor, src, GGML_MAX_SRC)                                                                                  \
    X(ggml_tensor, data, 1)                                                                                            \
    X(ggml_tensor, name, GGML_MAX_NAME)                                                                                \
    X(ggml_compute_params, ith, 1)                                                                                     \
    X(ggml_compute_params, nth, 1)                                                                                     \
    X(ggml_compute_params, wsize, 1)                                                                                   \
    X(ggml_compute_params, wdata, 1)                                                                                   \
    X(ggml_compute_params, threadpool, 1)                                                                              \
    X(ggml_threadpool_params, cpumask, GGML_MAX_N_THREADS)                                                             \
    X(ggml_threadpool_params, n_threads, 1)                                                                            \
    X(ggml_threadpool_params, prio, 1)                                                                                 \
    X(ggml_threadpool_params, poll, 1)                                                                                 \
    X(ggml_threadpool_params, strict_cpu, 1)                                                                           \
    X(ggml_threadpool_params, paused, 1)

#define FIELD(S, F, N) {#S, #F, offsetof(struct S, F), sizeof(((struct S *)0)->F), N, sizeof(struct S)},

static const struct {
    const char *structure, *field;
    size_t offset, size, count, structure_size;
} fields[] = {FIELDS(FIELD)};

/* Operations that Python names. */
#define OPERATIONS(X)                                                                                                  \
    X(MUL_MAT_ID)

/* The number of an operation; -1 for one that isn't listed. */
__attribute__((visibility("default"))) int tailrace_ggml_operation(const char *name) {
#define OPERATION(O)                                                                                                   \
    if (!strcmp(name, #O)) return GGML_OP_##O;
    OPERATIONS(OPERATION)
    return -1;
}

/* The field's offset, its bytes and its elements, and the bytes of the struct. False for a field that isn't listed. */
__attribute__((visibility("default"))) bool tailrace_ggml_field(const char *structure, const char *field,
                                                                int64_t out[4]) {
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(fields[i].structure, structure) || strcmp(fields[i].field, field)) continue;
        out[0] = (int64_t)fields[i].offset;
        out[1] = (int64_t)fields[i].size;
        out[2] = (int64_t)fields[i].count;
        out[3] = (int64_t)fields[i].structure_size;
        return true;
    }
    return false;
}
