/* What a mixture of experts computes beside its products: see fused_ops.h. */
#include <math.h>

#include "experts/fused_ops.h"

#define UNIT_VECTORS 4 /* of a token's numbers: the smallest share of a thread */

static const float *row_of(const struct ggml_tensor *t, int64_t used, int64_t token) {
    return (const float *)((const char *)t->data + used * (int64_t)t->nb[1] + token * (int64_t)t->nb[2]);
}

/* Numbers `begin` to `end` of a token, whose experts are added in their order. */
static void sum_experts(const struct weighted_sum *s, int64_t token, int64_t begin, int64_t end) {
    float *out = (float *)((char *)s->result->data + token * (int64_t)s->result->nb[1]);
    for (int64_t i = begin; i < end; i += VF_LANES) {
        const int count = end - i < VF_LANES ? (int)(end - i) : VF_LANES;
        vf sum = vf_zero();
        for (int64_t used = 0; used < s->outputs->ne[1]; used++) {
            const vf x = vf_load_first(row_of(s->outputs, used, token) + i, count);
            const vf weighted = vf_mul(x, vf_set1(*row_of(s->weights, used, token)));
            sum = used ? vf_add(sum, weighted) : weighted;
        }
        vf_store_first(out + i, count, sum);
    }
}

void compute_weighted_sum(const struct ggml_compute_params *params, const struct weighted_sum *s) {
    const int64_t n = s->outputs->ne[0], unit = UNIT_VECTORS * VF_LANES, units = (n + unit - 1) / unit;
    const int64_t total = units * s->outputs->ne[2];
    for (int64_t u = total * params->ith / params->nth; u < total * (params->ith + 1) / params->nth; u++) {
        const int64_t begin = u % units * unit;
        sum_experts(s, u / units, begin, begin + unit < n ? begin + unit : n);
    }
}

/* NaN comes last, as no score is less than it. */
static float score_of(float x) { return x == x ? x : -INFINITY; }

void compute_top_experts(const struct ggml_compute_params *params, const struct top_experts *top) {
    const struct ggml_tensor *scores = top->order->src[0];
    const int64_t n_rows = scores->ne[1];
    for (int64_t r = n_rows * params->ith / params->nth; r < n_rows * (params->ith + 1) / params->nth; r++) {
        const float *x = (const float *)((const char *)scores->data + r * (int64_t)scores->nb[1]);
        int32_t *best = (int32_t *)((char *)top->order->data + r * (int64_t)top->order->nb[1]);
        int64_t count = 0; /* of `best`, in falling order; of equal scores the first comes first */
        for (int32_t i = 0; i < scores->ne[0]; i++) {
            const float score = score_of(x[i]);
            if (count == top->count && !(score > score_of(x[best[count - 1]]))) continue;
            int64_t at = count < top->count ? count++ : count - 1;
            for (; at > 0 && score > score_of(x[best[at - 1]]); at--) best[at] = best[at - 1];
            best[at] = i;
        }
    }
}
