/* Bias and penalties on a row of logits, and back: penalties.py's arithmetic, bit for bit, in one call each.
 *
 * The tokens lie anywhere in a row of a megabyte: what takes time is to fetch their lines. So their logits are first read, so
 * many that the fetches overlap, then changed together, then written.
 */
#include <math.h>
#include <stdint.h>

#include "rows.h"

/* Tokens without repetition, and what is done to their logits. */
struct changes {
    const int64_t *biased, *recent, *reply;
    const float *bias, *counts; /* of `biased`, of `reply` */
    float *before, *lanes;      /* the logits that the changes have replaced, and `near` of their lanes, in order */
    int64_t biases, recents, replies;
    float repeat, frequency, presence;
};

enum { MANY = 512 }; /* that are changed together */

static int within(const int64_t *tokens, int64_t many, int64_t size) {
    int64_t outside = 0;
    for (int64_t i = 0; i < many; i++) outside |= (uint64_t)tokens[i] >= (uint64_t)size;
    return !outside;
}

static inline void read(float *restrict to, const float *restrict row, const int64_t *restrict tokens, int64_t many) {
    for (int64_t i = 0; i < many; i++) to[i] = row[tokens[i]];
}

static inline void write(float *restrict row, const int64_t *restrict tokens, const float *restrict from, int64_t many) {
    for (int64_t i = 0; i < many; i++) row[tokens[i]] = from[i];
}

/* As NumPy's minimum and maximum: NaN where one is. */
static inline float lesser(float a, float b) { return a < b || a != a ? a : b; }
static inline float greater(float a, float b) { return a > b || a != a ? a : b; }

/* The greatest of a token's lane of 256. */
static float greatest_of_lane(const float *row, int64_t size, int64_t token) {
    float most = -INFINITY;
    const int64_t begin = token / GROUP * GROUP;
    for (int64_t at = begin + token % LANES; at < begin + GROUP && at < size; at += LANES)
        most = row[at] > most ? row[at] : most;
    return most;
}

/* Brings `near` after the row. A lane is looked at only where its greatest may have been what a token had `before`: one
 * token in sixteen. */
static void follow(
    float *near, const float *row, int64_t size, const int64_t *tokens, const float *before, float *lanes, int64_t many) {
    for (int64_t i = 0; i < many; i++) {
        float *lane = near + tokens[i] / GROUP * LANES + tokens[i] % LANES;
        const float now = row[tokens[i]];
        lanes[i] = *lane;
        if (now != now) *lane = INFINITY; /* Which is in no row, so that the row itself is read. */
        else if (now > *lane) *lane = now;
        else if (before[i] >= *lane) *lane = greatest_of_lane(row, size, tokens[i]);
    }
}

static void restore(float *near, const int64_t *tokens, const float *lanes, int64_t many) {
    for (int64_t i = many - 1; i >= 0; i--) near[tokens[i] / GROUP * LANES + tokens[i] % LANES] = lanes[i];
}

/* Changes the logits, and `near`, where it isn't NULL, along with them; 0 and nothing where a token isn't in the row. */
EXPORT int tailrace_rows_apply(float *restrict row, int64_t size, const struct changes *changes, float *near) {
    const struct changes c = *changes;
    if (!within(c.biased, c.biases, size) || !within(c.recent, c.recents, size) || !within(c.reply, c.replies, size))
        return 0;
    float *restrict before = c.before;
    float after[MANY];
    for (int64_t begin = 0, many; begin < c.biases; begin += many, before += many) {
        many = c.biases - begin < MANY ? c.biases - begin : MANY;
        read(before, row, c.biased + begin, many);
        for (int64_t i = 0; i < many; i++) after[i] = before[i] + c.bias[begin + i];
        write(row, c.biased + begin, after, many);
    }
    for (int64_t begin = 0, many; begin < c.recents; begin += many, before += many) {
        many = c.recents - begin < MANY ? c.recents - begin : MANY;
        read(before, row, c.recent + begin, many);
        for (int64_t i = 0; i < many; i++) {
            const float less = before[i] / c.repeat, more = before[i] * c.repeat;
            after[i] = c.repeat > 1.0f ? lesser(less, more) : greater(less, more);
        }
        write(row, c.recent + begin, after, many);
    }
    for (int64_t begin = 0, many; begin < c.replies; begin += many, before += many) {
        many = c.replies - begin < MANY ? c.replies - begin : MANY;
        read(before, row, c.reply + begin, many);
        /* In two loops, so that product and sum are rounded one by one as NumPy does: the compiler would make them one. */
        for (int64_t i = 0; i < many; i++) after[i] = c.counts[begin + i] * c.frequency;
        __asm__("" : : "r"(after) : "memory");
        for (int64_t i = 0; i < many; i++) after[i] = before[i] - (after[i] + c.presence);
        write(row, c.reply + begin, after, many);
    }
    if (near) {
        /* The last first: of a token that several lower, the first one's `before` was its lane's greatest, if one was, and
         * the lane is read once. */
        const int64_t first = c.biases, second = c.biases + c.recents;
        follow(near, row, size, c.reply, c.before + second, c.lanes + second, c.replies);
        follow(near, row, size, c.recent, c.before + first, c.lanes + first, c.recents);
        follow(near, row, size, c.biased, c.before, c.lanes, c.biases);
    }
    return 1;
}

/* Puts back what `apply` changed. */
EXPORT void tailrace_rows_undo(float *restrict row, const struct changes *changes, float *near) {
    const struct changes c = *changes;
    if (near) {
        restore(near, c.biased, c.lanes, c.biases);
        restore(near, c.recent, c.lanes + c.biases, c.recents);
        restore(near, c.reply, c.lanes + c.biases + c.recents, c.replies);
    }
    /* The last first: a token may be in several. */
    write(row, c.reply, c.before + c.biases + c.recents, c.replies);
    write(row, c.recent, c.before + c.biases, c.recents);
    write(row, c.biased, c.before, c.biases);
}
