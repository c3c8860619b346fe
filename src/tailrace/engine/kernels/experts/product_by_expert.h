/* A product by expert while it is computed: what expert_products.c and expert_tiles.c share. */
#pragma once
#include <math.h>

#include "experts/expert_products.h"
#include "experts/expert_tiles.h"
#include "experts/routing.h"

#define PREFETCHED_PAIRS 16 /* whose results are prefetched */

struct product {
    const struct expert_op *op;
    enum format format;
    bool in_file_order;
    struct routing routing;
    uint8_t *quantised;         /* pairs by place; for repacked weights in tiles of pairs of one expert */
    struct expert_tiles tiles;  /* of experts that AMX tiles compute */
    int64_t n_blocks, n_panels; /* blocks of a row; panels of 16 rows of an expert's result, the last may have fewer */
    int64_t panel_bytes, act_bytes; /* of the weights of a panel; of a pair's quantised activations */
    int64_t n_parts;                /* work chunks of an expert */
};

INLINE int64_t n_pairs_of(const struct ggml_tensor *ids) { return ids->ne[0] * ids->ne[1]; }

INLINE float *out_of(const struct ggml_tensor *result, struct pair pair) {
    return (float *)((char *)result->data + pair.used * (int64_t)result->nb[1] + pair.token * (int64_t)result->nb[2]);
}

/* The panels of a work chunk, which are numbered expert by expert. */
struct chunk {
    int64_t expert, begin, end;
};

INLINE const uint8_t *panel_at(const struct product *p, int m, int64_t expert, int64_t panel) {
    const struct expert_matrix *matrix = p->op->matrices + m;
    if (p->in_file_order)
        return (const uint8_t *)matrix->weights->data + expert * (int64_t)matrix->weights->nb[2] +
               (matrix->first_row + panel * GROUP_ROWS) * (int64_t)matrix->weights->nb[1];
    return matrix->repacked->data +
           ((expert * matrix->expert_rows + matrix->first_row) / GROUP_ROWS + panel) * p->panel_bytes;
}

/* Add the bias of rows `begin` to `begin` + `n_rows` of the result to the sums of each token. */
INLINE void add_bias(const struct expert_matrix *matrix, int64_t expert, int64_t begin, int64_t n_rows, int64_t count,
                     float *sums) {
    const float *bias = (const float *)((const char *)matrix->bias->data + expert * (int64_t)matrix->bias->nb[1]) +
                        matrix->first_row + begin;
    for (int64_t j = 0; j < count; j++)
        for (int64_t r = 0; r < n_rows; r++) sums[j * n_rows + r] += bias[r];
}

/* x / (1 + e^-(factor x)) */
INLINE vf sigmoid_times(vf x, float factor) {
    const vf power = vf_exp2(vf_mul(x, vf_set1(-1.44269504f * factor)));
    return vf_div(x, vf_add(vf_set1(1), power));
}

/* The gated numbers, in the place of those of the gate. */
INLINE void apply_gate(const struct expert_op *op, int64_t n, float *gate, const float *up) {
    const vf limit = vf_set1(op->limit), below = vf_set1(-op->limit);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        vf x = vf_loadu(gate + i), y = vf_loadu(up + i);
        if (op->gate == SWIGLU_OAI) {
            x = vf_min(limit, x), y = vf_max(below, vf_min(limit, y)); /* of NaN and a number, the second operand */
            x = sigmoid_times(x, op->alpha), y = vf_add(y, vf_set1(1));
        } else {
            x = sigmoid_times(x, 1);
        }
        vf_storeu(gate + i, vf_mul(x, y));
    }
}

/* Write rows `row` to `row` + `n_rows` of the results of `count` pairs from a place on. Results of other pairs lie
 * between them, so their cache lines are prefetched. */
INLINE void store_results(const struct product *p, int64_t place, int64_t count, int64_t row, int64_t n_rows,
                          const float *results) {
    const struct pair *pairs = p->routing.pairs + place;
    for (int64_t j = 0; j < count; j++, results += n_rows) {
        if (j + PREFETCHED_PAIRS < count)
            for (int64_t r = 0; r < n_rows; r += 16)
                __builtin_prefetch(out_of(p->op->result, pairs[j + PREFETCHED_PAIRS]) + row + r, 1);
        memcpy(out_of(p->op->result, pairs[j]) + row, results, (size_t)n_rows * sizeof(float));
    }
}
