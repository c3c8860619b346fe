/* The tokens above a bound, and the k likeliest: only groups whose remembered maxima reach the bound are read. */
#include "logits_row.h"

INLINE m16 at_least(const float *p, v16 bound) { return v16_at_least(v16_load(p), bound); }

/* Calls `take(token)` for each allowed token whose logit is at least `bound`, in rising order. */
#define FOR_EACH_ABOVE(row, m, bound, take)                                                                            \
    do {                                                                                                               \
        const v16 bound_ = v16_set1(bound);                                                                            \
        for (int64_t b_ = 0; b_ < (m).n_blocks; b_++) {                                                                \
            if (!at_least((m).block_max + b_ * LANES, bound_)) continue;                                               \
            for (int64_t g_ = b_ * 16; g_ < b_ * 16 + 16 && g_ < (m).n_groups; g_++) {                                 \
                if (!at_least((m).group_max + g_ * LANES, bound_)) continue;                                           \
                for (int64_t t_ = g_ * GROUP; t_ < (g_ + 1) * GROUP; t_ += LANES) {                                    \
                    unsigned hits_ = v16_at_least(load_logits(&(row), t_), bound_);                                    \
                    for (; hits_; hits_ &= hits_ - 1) take(t_ + __builtin_ctz(hits_));                                 \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* Writes the allowed tokens whose logit is at least `bound` to `tokens`, in rising order, and returns their number.
 * `tokens` holds as many as the row. `bound` is finite, so minus infinity is never among them. */
EXPORT int64_t tailrace_logits_tokens_above(const float *logits, const uint32_t *mask, int64_t size, float *maxima,
                                            float bound, int64_t *tokens) {
    const struct logits_row row = make_row(logits, mask, size);
    const struct view_maxima m = make_view_maxima(maxima, size);
    int64_t found = 0;
#define TAKE(token) tokens[found++] = (token)
    FOR_EACH_ABOVE(row, m, bound, TAKE);
#undef TAKE
    return found;
}

/* An integer that orders as the float does (no NaN); 0 and -0 have the same. */
INLINE int32_t to_ordered_int(float x) {
    x += 0.0f;
    int32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
}

INLINE float from_ordered_int(int32_t ordered) {
    const int32_t bits = ordered ^ (int32_t)((uint32_t)(ordered >> 31) >> 1);
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

/* How many numbers of the row are at least `bound`. */
INLINE int64_t count_at_least(const struct logits_row *row, v16 bound) {
    int64_t count = 0, token = 0;
    if (!row->mask)
        for (; token + LANES <= row->size; token += LANES)
            count += __builtin_popcount(at_least(row->logits + token, bound));
    for (; token < row->size; token += LANES) count += __builtin_popcount(v16_at_least(load_logits(row, token), bound));
    return count;
}

/* A bound that at least `k` numbers of the row reach, and hardly more, by bisection. All numbers reach minus infinity.
 * `max_logit` is the greatest number. */
static float bound_for_top_k(const struct logits_row *row, int64_t k, float max_logit) {
    /* Enough numbers reach `low`; `high` isn't known to be reached by enough. */
    int64_t low = to_ordered_int(-INFINITY), high = (int64_t)to_ordered_int(max_logit) + 1;
    const int64_t enough = k + k / 8;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        const int64_t count = count_at_least(row, v16_set1(from_ordered_int((int32_t)middle)));
        if (count >= k) {
            low = middle;
            if (count <= enough) break;
        } else {
            high = middle;
        }
    }
    return from_ordered_int((int32_t)low);
}

/* Sort key: the greatest logit first; of equal logits the lower token, which is the key's lower half. */
INLINE uint64_t sort_key(float logit, int64_t token) {
    return (uint64_t)((uint32_t)~to_ordered_int(logit) ^ 0x80000000u) << 32 | (uint32_t)token;
}

/* Sorts keys in rising order: runs of 16 by insertion, then merged. `scratch` holds as many keys. */
static void sort_keys(uint64_t *keys, uint64_t *scratch, int64_t count) {
    for (int64_t begin = 0; begin < count; begin += 16) {
        const int64_t end = begin + 16 < count ? begin + 16 : count;
        for (int64_t i = begin + 1; i < end; i++) {
            const uint64_t key = keys[i];
            int64_t j = i;
            for (; j > begin && keys[j - 1] > key; j--) keys[j] = keys[j - 1];
            keys[j] = key;
        }
    }
    uint64_t *from = keys, *to = scratch;
    for (int64_t width = 16; width < count; width *= 2) {
        for (int64_t begin = 0; begin < count; begin += 2 * width) {
            int64_t a = begin, b = begin + width < count ? begin + width : count;
            const int64_t a_end = b, b_end = begin + 2 * width < count ? begin + 2 * width : count;
            for (int64_t i = begin; i < b_end; i++)
                to[i] = b >= b_end || (a < a_end && from[a] <= from[b]) ? from[a++] : from[b++];
        }
        uint64_t *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != keys) __builtin_memcpy(keys, from, (size_t)count * sizeof *keys);
}

int64_t find_top_k(const struct logits_row *row, const struct view_maxima *m, float max_logit, int64_t k,
                   int64_t *tokens, int64_t *scratch) {
    /* Each maximum that reaches a bound stands for a token that does. Fewer numbers are searched faster. */
    const struct logits_row block_max = make_row(m->block_max, 0, m->n_blocks * LANES);
    const struct logits_row group_max = make_row(m->group_max, 0, m->n_groups * LANES);
    const float lowest = -3.402823466e38f;
    const struct logits_row *numbers = 4 * k <= block_max.size   ? &block_max
                                       : 2 * k <= group_max.size ? &group_max
                                                                 : row;
    float bound = k < row->size ? bound_for_top_k(numbers, k, max_logit) : lowest;
    if (bound < lowest) bound = lowest;
    uint64_t *keys = (uint64_t *)tokens;
    int64_t found = 0;
#define TAKE(token) keys[found++] = sort_key(row->logits[token], token)
    FOR_EACH_ABOVE(*row, *m, bound, TAKE);
#undef TAKE
    sort_keys(keys, (uint64_t *)scratch, found);
    if (found > k) found = k;
    for (int64_t i = 0; i < found; i++) tokens[i] = (int64_t)(keys[i] & 0xffffffffu);
    return found;
}

/* Writes the `k` (from 1) likeliest allowed tokens to `tokens` and returns their number. The best comes first; of
 * equals the lower token. Tokens with minus infinity aren't among them. `tokens` and `scratch` hold as many as the
 * row. */
EXPORT int64_t tailrace_logits_top_k(const float *logits, const uint32_t *mask, int64_t size, float *maxima,
                                     float max_logit, int64_t k, int64_t *tokens, int64_t *scratch) {
    const struct logits_row row = make_row(logits, mask, size);
    const struct view_maxima m = make_view_maxima(maxima, size);
    return find_top_k(&row, &m, max_logit, k, tokens, scratch);
}
