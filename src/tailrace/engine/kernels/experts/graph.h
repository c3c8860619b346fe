/* The operations that are computed together in the graph that is being computed. */
#pragma once
#include "experts/fused_ops.h"

/* The operations that are computed in the place of `first`; 0 where it is computed alone. */
const struct fused_op *fused_op_of(const struct ggml_tensor *first);
