/* Where the end of a list of tokens occurs earlier in it, and what followed there: repeats.py's answers. */
#include <stdint.h>

#include "rows.h"

/* See `measure`. `lengths` is written from its end on, where the list that is read backwards begins. */
EXPORT void tailrace_rows_measure(const int32_t *tokens, int64_t size, int32_t *lengths) {
    const int32_t *last = tokens + size - 1;
    int32_t *found = lengths + size - 1;
    int64_t left = 0, right = 0;
    if (size) *found = 0;
    for (int64_t place = 1; place < size; place++) {
        int64_t length = 0;
        if (place < right) length = found[-(place - left)] < right - place ? found[-(place - left)] : right - place;
        while (place + length < size && last[-length] == last[-(place + length)]) length++;
        found[-place] = (int32_t)length;
        if (place + length > right) {
            left = place;
            right = place + length;
        }
    }
}

/* See `extend`. From the end on, so that each place's neighbour is still what it was. */
EXPORT void tailrace_rows_extend(const int32_t *tokens, int32_t *lengths, int64_t size) {
    const __m512i last = _mm512_set1_epi32(tokens[size - 1]), one = _mm512_set1_epi32(1);
    int64_t end = size - 1;
    for (; end > LANES; end -= LANES) {
        const __mmask16 same = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(tokens + end - LANES), last);
        const __m512i before = _mm512_loadu_si512(lengths + end - LANES - 1);
        _mm512_storeu_si512(lengths + end - LANES, _mm512_maskz_add_epi32(same, before, one));
    }
    for (int64_t place = end - 1; place >= 0; place--)
        lengths[place] = tokens[place] == tokens[size - 1] ? (place ? lengths[place - 1] : 0) + 1 : 0;
}

/* See `followers`. `seen` has a 0 for each token, before and after. */
EXPORT int64_t tailrace_rows_followers(const int32_t *tokens, const int32_t *lengths, int64_t begin, int64_t end,
    int64_t limit, int64_t least, int32_t *seen, int32_t *found, int32_t *longest) {
    int64_t many = 0;
    const __m512i bound = _mm512_set1_epi32(least < INT32_MAX ? (int32_t)least : INT32_MAX);
    for (int64_t group = begin; group < end - 1; group += LANES) {
        const int64_t left = end - 1 - group;
        const __mmask16 there = left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
        unsigned hits = _mm512_mask_cmpge_epi32_mask(there, _mm512_maskz_loadu_epi32(there, lengths + group), bound);
        for (; hits; hits &= hits - 1) {
            const int64_t place = group + __builtin_ctz(hits);
            int64_t length = lengths[place];
            if (length > place - begin + 1) length = place - begin + 1;
            if (length > limit) length = limit;
            if (length < least) continue;
            const int32_t token = tokens[place + 1];
            if (!seen[token]) {
                found[many] = token;
                longest[many] = (int32_t)length;
                seen[token] = (int32_t)++many;
            } else if (longest[seen[token] - 1] < length) {
                longest[seen[token] - 1] = (int32_t)length;
            }
        }
    }
    for (int64_t i = 0; i < many; i++) seen[found[i]] = 0;
    return many;
}
