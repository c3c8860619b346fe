/* DRY's history: how long the tokens before each position match the end of the list. See interface.py. */
#include <stdint.h>

#include "logits_row.h"

/* The Z-algorithm over the reversed list: linear. Position 0 of the reversed list is the end of `lengths`. */
EXPORT void tailrace_logits_match_lengths(const int32_t *tokens, int64_t size, int32_t *lengths) {
    const int32_t *last = tokens + size - 1;
    int32_t *z = lengths + size - 1;
    int64_t left = 0, right = 0;
    if (size) *z = 0;
    for (int64_t at = 1; at < size; at++) {
        int64_t length = 0;
        if (at < right) length = z[-(at - left)] < right - at ? z[-(at - left)] : right - at;
        while (at + length < size && last[-length] == last[-(at + length)]) length++;
        z[-at] = (int32_t)length;
        if (at + length > right) {
            left = at;
            right = at + length;
        }
    }
}

/* From the end on: the length before each position must still be the old one. */
EXPORT void tailrace_logits_extend_match_lengths(const int32_t *tokens, int32_t *lengths, int64_t size) {
    const i16 last = i16_set1(tokens[size - 1]);
    int64_t end = size - 1;
    for (; end > LANES; end -= LANES) {
        const i16 before = i16_load(lengths + end - LANES - 1);
        i16_store(lengths + end - LANES, i16_next_where_equal(i16_load(tokens + end - LANES), last, before));
    }
    for (int64_t at = end - 1; at >= 0; at--)
        lengths[at] = tokens[at] == tokens[size - 1] ? (at ? lengths[at - 1] : 0) + 1 : 0;
}

/* `slot_of` has a 0 for each token, before and after. */
EXPORT int64_t tailrace_logits_find_continuations(const int32_t *tokens, const int32_t *lengths, int64_t begin,
                                                  int64_t end, int64_t max_length, int64_t min_length, int32_t *slot_of,
                                                  int32_t *found, int32_t *longest) {
    int64_t count = 0;
    const i16 bound = i16_set1(min_length < INT32_MAX ? (int32_t)min_length : INT32_MAX);
    for (int64_t group = begin; group < end - 1; group += LANES) {
        const int64_t left = end - 1 - group;
        const m16 within = left >= LANES ? 0xffff : (m16)((1u << left) - 1);
        unsigned hits = within & i16_at_least(i16_load_where(within, lengths + group), bound);
        for (; hits; hits &= hits - 1) {
            const int64_t at = group + __builtin_ctz(hits);
            int64_t length = lengths[at];
            if (length > at - begin + 1) length = at - begin + 1;
            if (length > max_length) length = max_length;
            if (length < min_length) continue;
            const int32_t token = tokens[at + 1];
            if (!slot_of[token]) {
                found[count] = token;
                longest[count] = (int32_t)length;
                slot_of[token] = (int32_t)++count;
            } else if (longest[slot_of[token] - 1] < length) {
                longest[slot_of[token] - 1] = (int32_t)length;
            }
        }
    }
    for (int64_t i = 0; i < count; i++) slot_of[found[i]] = 0;
    return count;
}
