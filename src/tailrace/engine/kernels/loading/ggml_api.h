/* Upstream (llama.cpp's ggml) as the kernels see it: its own headers, and the functions that the kernels call.
 *
 * Structs, enums and prototypes are upstream's, so the compiler holds this code to them. The functions are set by name
 * before anything is computed. A function that this llama.cpp doesn't have is 0: each entry point checks what it needs,
 * and without it leaves the operation to upstream. */
#pragma once
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "ggml.h"

#include "ggml-cpu-impl.h"
#include "binary-ops.h"
#include "llamafile/sgemm.h"
#include "ops.h"
#include "tiled/tiled.h"
#include "traits.h"

#include "simd.h"

int omp_get_num_threads(void); /* of the OpenMP team that computes; libgomp's */

/* The name in libraries of upstream's ggml_backend_amx_buffer_type, which is a C++ function. */
#define AMX_BUFFER_TYPE _Z28ggml_backend_amx_buffer_typev
ggml_backend_buffer_type_t AMX_BUFFER_TYPE(void);

/* OPTIONAL: the kernels are complete without it. A llama.cpp without OpenMP has a barrier that is as fast as ours, and
 * one without an operation never asks for it. */
#define UPSTREAM_FUNCTIONS(X)                                                                                          \
    X(llamafile_sgemm, REQUIRED)                                                                                       \
    X(ggml_compute_forward_mul_mat_tiled, REQUIRED)                                                                    \
    X(ggml_compute_forward_flash_attn_ext, REQUIRED)                                                                   \
    X(ggml_cpu_extra_compute_forward, REQUIRED)                                                                        \
    X(ggml_graph_compute, REQUIRED)                                                                                    \
    X(ggml_get_type_traits_cpu, REQUIRED)                                                                              \
    X(ggml_threadpool_chunk_set, REQUIRED)                                                                             \
    X(ggml_threadpool_chunk_add, REQUIRED)                                                                             \
    X(ggml_barrier, REQUIRED)                                                                                          \
    X(ggml_tiled_wdata_size, REQUIRED)                                                                                 \
    X(ggml_backend_buffer_get_usage, REQUIRED)                                                                         \
    X(ggml_backend_buffer_clear, REQUIRED)                                                                             \
    X(ggml_backend_buffer_get_base, REQUIRED)                                                                          \
    X(ggml_backend_buffer_get_size, REQUIRED)                                                                          \
    X(ggml_backend_buffer_is_host, REQUIRED)                                                                           \
    X(ggml_backend_alloc_ctx_tensors_from_buft, REQUIRED)                                                              \
    X(ggml_backend_tensor_get, REQUIRED)                                                                               \
    X(ggml_backend_tensor_memset, REQUIRED)                                                                            \
    X(ggml_backend_buffer_free, REQUIRED)                                                                              \
    X(ggml_backend_tensor_set, REQUIRED)                                                                               \
    X(ggml_get_first_tensor, REQUIRED)                                                                                 \
    X(ggml_get_next_tensor, REQUIRED)                                                                                  \
    X(ggml_init, OPTIONAL)                                                                                             \
    X(ggml_free, OPTIONAL)                                                                                             \
    X(ggml_tensor_overhead, OPTIONAL)                                                                                  \
    X(ggml_graph_overhead_custom, OPTIONAL)                                                                            \
    X(ggml_new_tensor_1d, OPTIONAL)                                                                                    \
    X(ggml_cpy, OPTIONAL)                                                                                              \
    X(ggml_new_graph_custom, OPTIONAL)                                                                                 \
    X(ggml_build_forward_expand, OPTIONAL)                                                                             \
    X(ggml_backend_buffer_get_type, OPTIONAL)                                                                          \
    X(ggml_backend_buft_get_device, OPTIONAL)                                                                          \
    X(ggml_backend_dev_init, OPTIONAL)                                                                                 \
    X(ggml_backend_graph_compute, OPTIONAL)                                                                            \
    X(ggml_backend_free, OPTIONAL)                                                                                     \
    X(ggml_backend_graph_compute_async, REQUIRED)                                                                      \
    X(ggml_backend_sched_graph_compute_async, REQUIRED)                                                                \
    X(ggml_backend_sched_split_graph, REQUIRED)                                                                        \
    X(ggml_backend_sched_get_n_backends, REQUIRED)                                                                     \
    X(ggml_backend_sched_get_n_copies, REQUIRED)                                                                       \
    X(ggml_backend_sched_get_backend, REQUIRED)                                                                        \
    X(ggml_backend_sched_get_tensor_backend, REQUIRED)                                                                 \
    X(ggml_backend_sched_set_tensor_backend, REQUIRED)                                                                 \
    X(ggml_backend_offload_op, REQUIRED)                                                                               \
    X(ggml_backend_synchronize, REQUIRED)                                                                              \
    X(ggml_backend_tensor_set_async, REQUIRED)                                                                         \
    X(ggml_backend_name, REQUIRED)                                                                                     \
    X(ggml_graph_view, REQUIRED)                                                                                       \
    X(_Z28ggml_backend_amx_buffer_typev, OPTIONAL)                                                                     \
    X(omp_get_num_threads, OPTIONAL)                                                                                   \
    X(ggml_compute_forward_gated_delta_net, OPTIONAL)                                                                  \
    X(ggml_compute_forward_ssm_scan, OPTIONAL)                                                                         \
    X(ggml_compute_forward_ssm_conv, OPTIONAL)                                                                         \
    X(ggml_compute_forward_concat, OPTIONAL)                                                                           \
    X(ggml_compute_forward_mul, OPTIONAL)

struct ggml_api {
#define UPSTREAM_POINTER(name, need) __typeof__(name) *name;
    UPSTREAM_FUNCTIONS(UPSTREAM_POINTER)
#undef UPSTREAM_POINTER
};
extern struct ggml_api upstream;

/* End the process where upstream lacks a function that can't be done without. */
_Noreturn void abort_without(const char *name);

/* Whether the threads of an operation can wait for each other and share a counter of work chunks. */
INLINE bool can_share_work(const struct ggml_compute_params *params) {
    return params->nth == 1 ||
           (upstream.ggml_barrier && upstream.ggml_threadpool_chunk_set && upstream.ggml_threadpool_chunk_add);
}

/* A matrix of single-precision numbers whose rows are contiguous. */
INLINE bool is_f32_matrix(const struct ggml_tensor *t) {
    return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->ne[2] == 1 && t->ne[3] == 1;
}
