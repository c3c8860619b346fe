/* Products by expert (GGML_OP_MUL_MAT_ID): each token is multiplied with the matrices of the experts that it chose. */
#pragma once
#include "loading/ggml_api.h"
#include "loading/repack_layout.h"

/* The matrices of all experts, or the same rows of each. */
struct expert_matrix {
    const struct ggml_tensor *weights;
    const struct repacked *repacked; /* 0: the weights are multiplied in file order */
    const struct ggml_tensor *bias;  /* [rows of an expert, experts]; 0: none */
    int64_t first_row, expert_rows;  /* the first row of an expert that counts; all rows of an expert */
};

/* How the products with two matrices, gate and up, become one result. */
enum gate { NO_GATE, SWIGLU, SWIGLU_OAI };

/* One or two products with the same activations. */
struct expert_op {
    const struct ggml_tensor *product;           /* of the first matrix, in upstream's graph */
    const struct ggml_tensor *activations, *ids; /* [numbers, 1 or experts of a token, tokens], [experts, tokens] */
    struct ggml_tensor *result;                  /* [rows, experts of a token, tokens] */
    int64_t n_experts;
    int n_matrices;
    struct expert_matrix matrices[2];
    enum gate gate;
    float alpha, limit; /* of SWIGLU_OAI */
};

/* Bytes of work memory that a product needs; 0 where its format isn't known. */
size_t expert_work_bytes(int n_threads, const struct ggml_tensor *result);

/* Whether compute_expert_op can be called with so many threads and so much work memory. */
bool can_compute_expert_op(const struct expert_op *op, int n_threads, size_t work_bytes);

/* The whole operation, called by every thread of the pool. Results of a pair whose expert doesn't exist are NaN. */
void compute_expert_op(const struct ggml_compute_params *params, const struct expert_op *op);

/* A product alone. False, with nothing done, where it can't be computed or upstream is faster. */
bool expert_product(const struct ggml_compute_params *params, struct ggml_tensor *result);
