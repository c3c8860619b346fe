/* The operations that are computed together in the graph that has a plan. */
#pragma once
#include "experts/fused_ops.h"

/* Find them, before the threads of the graph start; forget them when these have ended. */
void fuse_graph(const struct ggml_cgraph *graph, const struct ggml_cplan *cplan);
void forget_fused_ops(void);

/* The operations that are computed in the place of `first`; 0 where it is computed alone. */
const struct fused_op *fused_op_of(const struct ggml_compute_params *params, const struct ggml_tensor *first);
