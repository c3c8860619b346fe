/* Passes over rows of logits for CPUs with AVX-512: the questions of plain.py, each answered in one call.
 *
 * A row of 262k logits is 1 MB, and what a pass takes is the time to bring it from the last-level cache. So nothing is
 * read twice that the first pass can remember: of each lane of 256 tokens it keeps the greatest (`near`), and of each
 * lane of 4096 (`far`), and later questions read only the lanes that can matter.
 *
 * Where the product that made the row has kept `near` itself (`kept`: see kernels/ and native.py), the row isn't read at
 * all but for the few tokens that matter.
 *
 * A mask has a bit for each token that counts; without one all do. What a mask hides is never looked at: it may be
 * anything. Nothing is written but what the caller hands in for it, and no thread is made.
 */
#include "rows.h"

/* The greatest of each lane of 256 tokens. Of `ordered` those bits stay where no number is NaN. `logits` and `mask` are at
 * the first of them. */
INLINE __m512 greatest_of_whole(const float *logits, const uint16_t *mask, __mmask16 *ordered) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    if (mask) {
        const __m256i bits = _mm256_loadu_si256((const __m256i *)mask);
        if (_mm256_testz_si256(bits, bits)) return none;
    }
    __m512 most[2] = {none, none};
    __mmask16 fine[2] = {*ordered, *ordered};
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const float *p = logits + 2 * i * LANES;
        const __m512 a = mask ? _mm512_mask_loadu_ps(none, mask[2 * i], p) : _mm512_loadu_ps(p);
        const __m512 b = mask ? _mm512_mask_loadu_ps(none, mask[2 * i + 1], p + LANES) : _mm512_loadu_ps(p + LANES);
        fine[i % 2] = _mm512_mask_cmp_ps_mask(fine[i % 2], a, b, _CMP_ORD_Q);
        most[i % 2] = _mm512_max_ps(most[i % 2], _mm512_max_ps(a, b));
    }
    *ordered = _kand_mask16(fine[0], fine[1]);
    return _mm512_max_ps(most[0], most[1]);
}

/* The same of the last tokens, fewer than 256. */
static __attribute__((noinline)) __m512 greatest_of_rest(const struct row *row, int64_t token, __mmask16 *ordered) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (; token < row->size; token += LANES) {
        const __m512 x = load(row, token);
        *ordered = _mm512_mask_cmp_ps_mask(*ordered, x, x, _CMP_ORD_Q);
        most = _mm512_max_ps(most, x);
    }
    return most;
}

INLINE __m512 greatest(const struct row *row, int64_t token, __mmask16 *ordered) {
    if (token + GROUP > row->size) return greatest_of_rest(row, token, ordered);
    return greatest_of_whole(row->logits + token, row->mask ? row->mask + token / LANES : 0, ordered);
}

/* The first of 4096 tokens that equals `wanted` and counts, or is NaN, or -1. */
static int64_t place_of(const struct row *row, int64_t begin, float wanted) {
    const __m512 w = _mm512_set1_ps(wanted);
    for (int64_t token = begin; token < begin + BLOCK && token < row->size; token += LANES) {
        const __m512 x = load(row, token);
        const __mmask16 equal = _mm512_cmp_ps_mask(x, w, _CMP_EQ_OQ), nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        const __mmask16 hits = counted(row, token) & (isnan(wanted) ? nan : equal);
        if (hits) return token + __builtin_ctz(hits);
    }
    return -1;
}

/* The first of the greatest that count, or of those that are NaN; -1 where all that count is minus infinity. */
INLINE int64_t best_of(const struct row *row) {
    float best = -INFINITY;
    int64_t at = -1;
    for (int64_t begin = 0; begin < row->size; begin += BLOCK) {
        const int64_t end = begin + BLOCK < row->size ? begin + BLOCK : row->size;
        __m512 most = _mm512_set1_ps(-INFINITY);
        __mmask16 ordered = 0xffff;
        for (int64_t token = begin; token < end; token += GROUP) most = _mm512_max_ps(most, greatest(row, token, &ordered));
        if (ordered != 0xffff) return place_of(row, begin, NAN);
        const float here = _mm512_reduce_max_ps(most);
        if (here > best) {
            best = here;
            at = begin;
        }
    }
    return at < 0 ? -1 : place_of(row, at, best);
}

/* The first token of those that equal the greatest of `kept`, or -1 where `kept` isn't this row's. */
INLINE int64_t best_of_kept(const struct row *row, const float *kept) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    __m512i group = _mm512_setzero_si512();
    const int64_t groups = groups_of(row->size);
    for (int64_t g = 0; g < groups; g++) {
        const __m512 x = _mm512_loadu_ps(kept + g * LANES);
        group = _mm512_mask_set1_epi32(group, _mm512_cmp_ps_mask(x, most, _CMP_GT_OQ), (int)g);
        most = _mm512_max_ps(most, x);
    }
    const float best = _mm512_reduce_max_ps(most);
    /* Each lane knows the first of its groups that has its greatest. */
    const __mmask16 where = _mm512_cmp_ps_mask(most, _mm512_set1_ps(best), _CMP_EQ_OQ);
    const int64_t first = _mm512_mask_reduce_min_epu32(where, group) * (int64_t)GROUP;
    for (int64_t token = first; token < first + GROUP; token += LANES) {
        const __mmask16 hits = _mm512_cmp_ps_mask(load(row, token), _mm512_set1_ps(best), _CMP_EQ_OQ) & counted(row, token);
        if (hits) return token + __builtin_ctz(hits);
    }
    return -1;
}

INLINE int64_t best_here(const struct row *row, const float *kept) {
    if (kept) {
        const int64_t token = best_of_kept(row, kept);
        if (token >= 0 && isfinite(row->logits[token])) return token;
    }
    return best_of(row);
}

/* `kept` is `near` of the whole row, or NULL. */
EXPORT int64_t tailrace_rows_best(const float *logits, const uint32_t *mask, int64_t size, const float *kept) {
    const struct row row = row_of(logits, mask, size), all = row_of(logits, 0, size);
    return mask ? best_of(&row) : best_here(&all, kept);
}

/* The same for each of so many rows that lie one behind the other, as their `kept` do; 0 where one of them isn't finite. */
EXPORT int tailrace_rows_best_of_each(const float *logits, int64_t count, int64_t size, const float *kept, int64_t *tokens) {
    /* From the last to the first: that is the order in which the caches have kept them, as they were written last. */
    for (int64_t i = count - 1; i >= 0; i--) {
        const struct row row = row_of(logits + i * size, 0, size);
        tokens[i] = best_here(&row, kept ? kept + i * groups_of(size) * LANES : 0);
        if (tokens[i] < 0 || !isfinite(row.logits[tokens[i]])) return 0;
    }
    return 1;
}

/* How many numbers `maxima` has room for. */
EXPORT int64_t tailrace_rows_room(int64_t size) { return (blocks_of(size) + groups_of(size)) * LANES; }

INLINE float scan(const struct row *row, const struct maxima *m) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    __mmask16 ordered = 0xffff;
    for (int64_t b = 0; b < m->blocks; b++) {
        __m512 here = _mm512_set1_ps(-INFINITY);
        const int64_t end = b * 16 + 16 < m->groups ? b * 16 + 16 : m->groups;
        for (int64_t g = b * 16; g < end; g++) {
            const __m512 x = greatest(row, g * GROUP, &ordered);
            _mm512_storeu_ps(m->near + g * LANES, x);
            here = _mm512_max_ps(here, x);
        }
        _mm512_storeu_ps(m->far + b * LANES, here);
        most = _mm512_max_ps(most, here);
    }
    return ordered == 0xffff ? _mm512_reduce_max_ps(most) : NAN;
}

/* The same from `kept`. */
INLINE float take_over(const float *kept, const struct maxima *m) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int64_t b = 0; b < m->blocks; b++) {
        __m512 here = _mm512_set1_ps(-INFINITY);
        const int64_t end = b * 16 + 16 < m->groups ? b * 16 + 16 : m->groups;
        for (int64_t g = b * 16; g < end; g++) {
            const __m512 x = _mm512_loadu_ps(kept + g * LANES);
            _mm512_storeu_ps(m->near + g * LANES, x);
            here = _mm512_max_ps(here, x);
        }
        _mm512_storeu_ps(m->far + b * LANES, here);
        most = _mm512_max_ps(most, here);
    }
    return _mm512_reduce_max_ps(most);
}

/* The greatest that counts, NaN where one is; and what the questions below need. `kept` is `near` of the whole row, or
 * NULL. */
EXPORT float tailrace_rows_scan(
    const float *logits, const uint32_t *mask, int64_t size, const float *kept, float *maxima) {
    const struct row row = row_of(logits, mask, size), all = row_of(logits, 0, size);
    const struct maxima m = maxima_of(maxima, size);
    if (kept && !mask && best_of_kept(&all, kept) >= 0) {
        const float best = take_over(kept, &m);
        if (isfinite(best)) return best;
    }
    return mask ? scan(&row, &m) : scan(&all, &m);
}

INLINE __mmask16 at_least(const float *p, __m512 least) {
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(p), least, _CMP_GE_OQ);
}

/* Calls `take(token)` for each token from `bound` on that counts, in rising order. */
#define FOR_ABOVE(row, m, bound, take)                                                                               \
    do {                                                                                                             \
        const __m512 least = _mm512_set1_ps(bound);                                                                  \
        for (int64_t b_ = 0; b_ < (m).blocks; b_++) {                                                                \
            if (!at_least((m).far + b_ * LANES, least)) continue;                                                    \
            for (int64_t g_ = b_ * 16; g_ < b_ * 16 + 16 && g_ < (m).groups; g_++) {                                 \
                if (!at_least((m).near + g_ * LANES, least)) continue;                                               \
                for (int64_t t_ = g_ * GROUP; t_ < (g_ + 1) * GROUP; t_ += LANES) {                                  \
                    unsigned hits_ = _mm512_cmp_ps_mask(load(&(row), t_), least, _CMP_GE_OQ);                        \
                    for (; hits_; hits_ &= hits_ - 1) take(t_ + __builtin_ctz(hits_));                               \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
    } while (0)

/* The tokens that count and are at least `bound`, in rising order, and how many: as many as the row has at most.
 * `bound` is finite: minus infinity counts nowhere. */
EXPORT int64_t tailrace_rows_above(
    const float *logits, const uint32_t *mask, int64_t size, float *maxima, float bound, int64_t *tokens) {
    const struct row row = row_of(logits, mask, size);
    const struct maxima m = maxima_of(maxima, size);
    int64_t found = 0;
#define TAKE(token) tokens[found++] = (token)
    FOR_ABOVE(row, m, bound, TAKE);
#undef TAKE
    return found;
}

/* Numbers in the order of floats, without NaN; 0 and -0 are the same. */
INLINE int32_t rank_of(float x) {
    x += 0.0f;
    int32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
}

INLINE float of_rank(int32_t rank) {
    const int32_t bits = rank ^ (int32_t)((uint32_t)(rank >> 31) >> 1);
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

/* How many of the row's numbers are at least `least`. */
INLINE int64_t reached(const struct row *row, __m512 least) {
    int64_t many = 0, token = 0;
    if (!row->mask)
        for (; token + LANES <= row->size; token += LANES) many += __builtin_popcount(at_least(row->logits + token, least));
    for (; token < row->size; token += LANES)
        many += __builtin_popcount(_mm512_cmp_ps_mask(load(row, token), least, _CMP_GE_OQ));
    return many;
}

/* A number that at least `count` of the row's reach, and hardly more, found by halving; minus infinity counts as reached
 * by all. `best` is the greatest. */
static float bound_for(const struct row *row, int64_t count, float best) {
    /* `low` is reached by enough, `high` isn't known to be. */
    int64_t low = rank_of(-INFINITY), high = (int64_t)rank_of(best) + 1;
    const int64_t enough = count + count / 8;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        const int64_t many = reached(row, _mm512_set1_ps(of_rank((int32_t)middle)));
        if (many >= count) {
            low = middle;
            if (many <= enough) break;
        } else {
            high = middle;
        }
    }
    return of_rank((int32_t)low);
}

/* What comes earlier, the greater the number, and of equals the lower token, which is its lower half. */
INLINE uint64_t key_of(float x, int64_t token) {
    return (uint64_t)((uint32_t)~rank_of(x) ^ 0x80000000u) << 32 | (uint32_t)token;
}

/* Sorts so many keys, rising; `other` has room for as many. Runs of 16 by insertion, then merged. */
static void sort(uint64_t *keys, uint64_t *other, int64_t many) {
    for (int64_t begin = 0; begin < many; begin += 16) {
        const int64_t end = begin + 16 < many ? begin + 16 : many;
        for (int64_t i = begin + 1; i < end; i++) {
            const uint64_t key = keys[i];
            int64_t j = i;
            for (; j > begin && keys[j - 1] > key; j--) keys[j] = keys[j - 1];
            keys[j] = key;
        }
    }
    uint64_t *from = keys, *to = other;
    for (int64_t width = 16; width < many; width *= 2) {
        for (int64_t begin = 0; begin < many; begin += 2 * width) {
            int64_t a = begin, b = begin + width < many ? begin + width : many;
            const int64_t a_end = b, b_end = begin + 2 * width < many ? begin + 2 * width : many;
            for (int64_t i = begin; i < b_end; i++)
                to[i] = b >= b_end || (a < a_end && from[a] <= from[b]) ? from[a++] : from[b++];
        }
        uint64_t *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != keys) __builtin_memcpy(keys, from, (size_t)many * sizeof *keys);
}

/* The `count` likeliest tokens that count, best first, of equals the lower one first, and how many there are: fewer where
 * the others are minus infinity. `tokens` and `other` have room for the whole row; `count` is from 1. */
int64_t likeliest(
    const struct row *row, const struct maxima *m, float best, int64_t count, int64_t *tokens, int64_t *other) {
    /* Each number that reaches a bound stands for a token that does. The fewer there are, the sooner it is found. */
    const struct row far = row_of(m->far, 0, m->blocks * LANES), near = row_of(m->near, 0, m->groups * LANES);
    const float lowest = -3.402823466e38f;
    const struct row *numbers = 4 * count <= far.size ? &far : 2 * count <= near.size ? &near : row;
    float bound = count < row->size ? bound_for(numbers, count, best) : lowest;
    if (bound < lowest) bound = lowest;
    uint64_t *keys = (uint64_t *)tokens;
    int64_t found = 0;
#define TAKE(token) keys[found++] = key_of(row->logits[token], token)
    FOR_ABOVE(*row, *m, bound, TAKE);
#undef TAKE
    sort(keys, (uint64_t *)other, found);
    if (found > count) found = count;
    for (int64_t i = 0; i < found; i++) tokens[i] = (int64_t)(keys[i] & 0xffffffffu);
    return found;
}

EXPORT int64_t tailrace_rows_top(const float *logits, const uint32_t *mask, int64_t size, float *maxima, float best,
    int64_t count, int64_t *tokens, int64_t *other) {
    const struct row row = row_of(logits, mask, size);
    const struct maxima m = maxima_of(maxima, size);
    return likeliest(&row, &m, best, count, tokens, other);
}
