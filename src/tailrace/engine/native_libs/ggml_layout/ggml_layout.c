/* Where the fields of ggml's structs lie, and the values of its constants, for Python: computed by a compiler from llama.cpp's own headers. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "ggml.h"

/* struct, field, number of elements */
#define FIELDS(X)                                                                                                      \
    X(ggml_tensor, type, 1)                                                                                            \
    X(ggml_tensor, buffer, 1)                                                                                          \
    X(ggml_tensor, flags, 1)                                                                                           \
    X(ggml_tensor, op, 1)                                                                                              \
    X(ggml_tensor, ne, GGML_MAX_DIMS)                                                                                  \
    X(ggml_tensor, nb, GGML_MAX_DIMS)                                                                                  \
    X(ggml_tensor, op_params, GGML_MAX_OP_PARAMS / 4)                                                                  \
    X(ggml_tensor, src, GGML_MAX_SRC)                                                                                  \
    X(ggml_tensor, data, 1)                                                                                            \
    X(ggml_tensor, name, GGML_MAX_NAME)                                                                                \
    X(ggml_cgraph, n_nodes, 1)                                                                                         \
    X(ggml_cgraph, nodes, 1)                                                                                           \
    X(ggml_cgraph, use_counts, 1)                                                                                      \
    X(ggml_cgraph, visited_hash_set.size, 1)                                                                           \
    X(ggml_cgraph, visited_hash_set.used, 1)                                                                           \
    X(ggml_cgraph, visited_hash_set.keys, 1)                                                                           \
    X(ggml_cplan, work_size, 1)                                                                                        \
    X(ggml_cplan, work_data, 1)                                                                                        \
    X(ggml_cplan, n_threads, 1)                                                                                        \
    X(ggml_type_traits_cpu, from_float, 1)                                                                             \
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

/* Constants that Python names. */
#define CONSTANTS(X)                                                                                                   \
    X(GGML_OP_ADD)                                                                                                     \
    X(GGML_OP_ADD_ID)                                                                                                  \
    X(GGML_OP_ARGSORT)                                                                                                 \
    X(GGML_OP_GLU)                                                                                                     \
    X(GGML_OP_MUL)                                                                                                     \
    X(GGML_OP_MUL_MAT_ID)                                                                                              \
    X(GGML_OP_VIEW)                                                                                                    \
    X(GGML_GLU_OP_SWIGLU)                                                                                              \
    X(GGML_GLU_OP_SWIGLU_OAI)                                                                                          \
    X(GGML_SORT_ORDER_DESC)                                                                                            \
    X(GGML_TENSOR_FLAG_COMPUTE)

/* The value of a constant; -1 for one that isn't listed. */
__attribute__((visibility("default"))) int tailrace_ggml_constant(const char *name) {
#define CONSTANT(C)                                                                                                    \
    if (!strcmp(name, #C)) return C;
    CONSTANTS(CONSTANT)
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
