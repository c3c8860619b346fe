/* A query group, and what a thread holds of each of its rows: the query and the online softmax so far.
 *
 * Scores are to base 2, so queries are multiplied with log2 e together with the scale. */
#pragma once
#include <math.h>

#include "attention/cache_types.h"
#include "attention/scratch.h"

/* Queries of one KV stream that look at the same keys: `n_tokens` tokens from `token` on, in `heads` query heads of
 * each of `key_heads` key heads, of which `head` and `key_head` are the first. A row is a token in a query head. Rows
 * are in the order of key heads, then tokens, then query heads. */
struct query_group {
    const struct ggml_tensor *q, *k, *v, *mask;
    enum cache_type k_type, v_type;
    float scale;
    int64_t stream, token, head, key_head;
    int n_tokens, heads, key_heads;
};

/* Keys or values of the group's first key head, from the first cell on. */
INLINE const uint8_t *cells_of(const struct ggml_tensor *t, const struct query_group *g) {
    const int64_t stream = g->stream / (g->q->ne[3] / g->k->ne[3]);
    return (const uint8_t *)t->data + g->key_head * t->nb[2] + stream * t->nb[3];
}

/* Load the queries of a group and reset their softmax. */
INLINE void load_queries(struct scratch *scratch, int head_dim, const struct query_group *g) {
    const __m512 scale = _mm512_set1_ps(g->scale * 1.44269504f);
    float *to = scratch->query;
    for (int kh = 0; kh < g->key_heads; kh++)
        for (int t = 0; t < g->n_tokens; t++)
            for (int h = 0; h < g->heads; h++, to += head_dim) {
                const size_t *nb = g->q->nb;
                const int64_t head = g->head + kh * g->heads + h;
                const char *q = (const char *)g->q->data + (g->token + t) * nb[1] + head * nb[2] + g->stream * nb[3];
                for (int d = 0; d < head_dim; d += 16)
                    _mm512_store_ps(to + d, _mm512_mul_ps(_mm512_loadu_ps(q + 4 * d), scale));
            }
    const int n_rows = g->key_heads * g->n_tokens * g->heads;
    memset(scratch->acc, 0, (size_t)(n_rows * head_dim) * sizeof(float));
    memset(scratch->row_sum, 0, (size_t)n_rows * sizeof(float));
    for (int r = 0; r < n_rows; r++) scratch->row_max[r] = -INFINITY;
}
