/* A query group, and what a thread holds of each of its rows: the query and the online softmax so far.
 *
 * Scores are to base 2, so queries are multiplied with log2 e together with the scale. */
#pragma once
#include <math.h>

#include "attention/cache_types.h"
#include "attention/word_rounding.h"

#define LOG2_E 1.44269504f

/* Queries of one KV stream that look at the same keys: `n_tokens` tokens from `token` on, in `heads` query heads of
 * each of `key_heads` key heads, of which `head` and `key_head` are the first. A row is a token in a query head. Rows
 * are in the order of key heads, then tokens, then query heads. */
struct query_group {
    const struct ggml_tensor *q, *k, *v, *mask;
    enum cache_type k_type, v_type;
    int k_dim, v_dim;                 /* numbers of a key and of a value */
    int k_row, v_row;                 /* the same padded, as the scratch buffers hold them */
    bool values_are_keys;             /* a value is the beginning of its cell's key (MLA) */
    float scale, softcap, alibi_bias; /* the last two are 0 where a model hasn't got them */
    int64_t stream, token, head, key_head;
    int n_tokens, heads, key_heads;
};

INLINE int padded(int64_t dim) { return (int)(dim + DIM_PADDING - 1) / DIM_PADDING * DIM_PADDING; }

/* Keys or values of the group's first key head, from the first cell on. */
INLINE const uint8_t *cells_of(const struct ggml_tensor *t, const struct query_group *g) {
    const int64_t stream = g->stream / (g->q->ne[3] / g->k->ne[3]);
    return (const uint8_t *)t->data + g->key_head * t->nb[2] + stream * t->nb[3];
}

/* The slope of a query head for ALiBi (Press et al., "Train short, test long", 2022), as upstream has it where the
 * number of heads isn't a power of two. */
INLINE float alibi_slope(const struct query_group *g, int64_t head) {
    int64_t power = 1;
    while (2 * power <= g->q->ne[2]) power *= 2;
    const float steps = head < power ? (float)(head + 1) : (float)(2 * (head - power) + 1) / 2;
    return exp2f(-g->alibi_bias * steps / (float)power);
}

/* Load the queries of a group and reset their softmax. */
INLINE void load_queries(struct scratch *scratch, const struct query_group *g) {
    /* With a softcap, a score is the argument of 2^x in tanh. */
    const float scale = g->softcap != 0 ? g->scale / g->softcap * (2 * LOG2_E) : g->scale * LOG2_E;
    int row = 0;
    for (int kh = 0; kh < g->key_heads; kh++)
        for (int t = 0; t < g->n_tokens; t++)
            for (int h = 0; h < g->heads; h++, row++) {
                const size_t *nb = g->q->nb;
                const int64_t head = g->head + kh * g->heads + h;
                const float *q = (const float *)((const char *)g->q->data + (g->token + t) * nb[1] + head * nb[2] +
                                                 g->stream * nb[3]);
                float *to = scratch->query + row * g->k_row;
                for (int d = 0; d < g->k_row; d += VF_LANES) {
                    const int left = g->k_dim - d;
                    const vf part = left >= VF_LANES ? vf_loadu(q + d)
                                    : left > 0       ? vf_load_first(q + d, left)
                                                     : vf_zero();
                    vf_store(to + d, vf_mul(part, vf_set1(scale)));
                }
                if (is_quantised(g->k_type))
                    round_query(to, g->k_dim, scratch->query_words + row * g->k_row,
                                scratch->query_scales + row * MAX_HEAD_BLOCKS);
                if (g->alibi_bias != 0) scratch->slope[row] = alibi_slope(g, head) * LOG2_E;
                scratch->row_max[row] = -INFINITY;
            }
    memset(scratch->acc, 0, (size_t)(row * g->v_row) * sizeof(float));
    memset(scratch->row_sum, 0, (size_t)row * sizeof(float));
    memset(scratch->lane_sums, 0, (size_t)row * VF_LANES * sizeof(float));
}
