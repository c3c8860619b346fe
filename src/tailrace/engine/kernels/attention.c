/* Attention over 16-bit keys and values for CPUs with AVX-512, in the place of llama.cpp's own (see gemm.c for how).
 *
 * llama.cpp's goes through the cells once for each query and takes an exponential at a time. Here the queries that look
 * at the same keys (the heads of a group, and several tokens of a prompt) go through them together in tiles of 64 cells:
 * scores, one vector exponential for 16 of them, then the weighted values, everything in single precision with a
 * running maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
 * "FlashAttention", 2022). Cells that the mask hides aren't read.
 */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "abi.h"
#include "attend.h"

#define SHORT 8        /* tokens of each stream up to which work is shared out by cells */

static _Thread_local struct desk desk_of_thread __attribute__((aligned(64)));

/* How many of a pass's tokens, the first ones, are replies'. Those that were guessed are kept where they are what would have
 * been chosen, so what is chosen may not depend on how many are computed at once: each one's numbers are, to the last bit, what
 * they are alone. A row's don't depend on other rows, but tiles have others, and sums end otherwise where work is shared out
 * otherwise. */
static int64_t replies;
void tailrace_kernels_replies(int64_t tokens) { replies = tokens; }

#define ATTEND(WIDTH)                                                                                                      \
    static __attribute__((noinline)) void attend_##WIDTH(struct desk *own, const struct group *g, int first, int step) { \
        attend(own, WIDTH, g, first, step, replies);                                                                       \
    }
ATTEND(64)
ATTEND(96)
ATTEND(128)
ATTEND(256)

typedef void (*attend_function)(struct desk *, const struct group *, int, int);

static attend_function attend_for(const struct tensor *result) {
    const struct tensor *q = result->sources[0], *k = result->sources[1], *v = result->sources[2], *mask = result->sources[3];
    float extras[3];
    memcpy(extras, result->parameters, sizeof extras); /* scale, the largest ALiBi bias, the softcap */
    if (q->type != F32 || k->type != F16 || v->type != F16 || extras[1] != 0 || extras[2] != 0 || result->sources[4]) return 0;
    if (k->sizes[0] != v->sizes[0] || k->sizes[2] != v->sizes[2] || k->sizes[3] != v->sizes[3]) return 0;
    if (k->sizes[1] % 16 || q->sizes[2] % k->sizes[2] || q->sizes[3] % k->sizes[3]) return 0;
    if (mask && (mask->type != F16 || mask->sizes[2] != 1)) return 0;
    switch (k->sizes[0]) {
        case 64: return attend_64;
        case 96: return attend_96;
        case 128: return attend_128;
        case 256: return attend_256;
        default: return 0;
    }
}

/* The queries of one unit of work: all heads of a key's head that have room, and so many tokens; to `bundle`,
 * where units aren't what is shared out, is to take as many key heads as have room. */
struct cut {
    int64_t streams, bundles, parts, blocks; /* bundles of key heads, parts of a head's group, blocks of tokens */
    int heads, tokens, key_heads;            /* in each */
};

static struct cut cut_of(const struct tensor *q, const struct tensor *k, bool bundle) {
    const int64_t heads = q->sizes[2] / k->sizes[2], all = k->sizes[2];
    struct cut c = {.streams = q->sizes[3], .key_heads = 1};
    c.heads = heads < most_rows() ? (int)heads : most_rows();
    c.tokens = most_rows() / c.heads;
    if (c.tokens > q->sizes[1]) c.tokens = (int)q->sizes[1];
    c.parts = (heads + c.heads - 1) / c.heads;
    c.blocks = (q->sizes[1] + c.tokens - 1) / c.tokens;
    if (bundle && c.parts == 1) {
        const int64_t room = STATE / ((c.tokens * heads + 15) / 16 * 16 * q->sizes[0]); /* tiles have 16 rows */
        c.key_heads = (int)(room < all ? room : all);
    }
    c.bundles = (all + c.key_heads - 1) / c.key_heads;
    return c;
}

static struct group unit_of(const struct tensor *result, struct cut c, int64_t unit) {
    const struct tensor *q = result->sources[0], *k = result->sources[1];
    const int64_t heads = q->sizes[2] / k->sizes[2];
    struct group g = {.q = q, .k = k, .v = result->sources[2], .mask = result->sources[3]};
    memcpy(&g.scale, result->parameters, sizeof g.scale);
    const int64_t part = unit % c.parts, block = unit / c.parts % c.blocks;
    g.key_head = unit / c.parts / c.blocks % c.bundles * c.key_heads;
    g.key_heads = k->sizes[2] - g.key_head < c.key_heads ? (int)(k->sizes[2] - g.key_head) : c.key_heads;
    g.stream = unit / c.parts / c.blocks / c.bundles;
    g.token = block * c.tokens;
    g.tokens = q->sizes[1] - g.token < c.tokens ? (int)(q->sizes[1] - g.token) : c.tokens;
    g.head = g.key_head * heads + part * c.heads;
    g.heads = heads - part * c.heads < c.heads ? (int)(heads - part * c.heads) : c.heads;
    return g;
}

/* How many operations have been done here and by llama.cpp's: nobody else can tell where the attention of a model went. */
static long done_here, left_to_them;
void tailrace_kernels_attended(long *here, long *them) { *here = done_here, *them = left_to_them; }

static float *result_of(const struct tensor *t, int64_t head, int64_t token, int64_t stream) {
    return (float *)((char *)t->data + head * t->strides[1] + token * t->strides[2] + stream * t->strides[3]);
}

void ggml_compute_forward_flash_attn_ext(const struct call *call, struct tensor *result) {
    const attend_function attend_here = attend_for(result);
    if (call->thread == 0) (attend_here ? done_here++ : left_to_them++);
    if (!attend_here) {
        theirs.attention(call, result);
        return;
    }
    struct desk *desk = OWN(desk_of_thread);
    const struct tensor *q = result->sources[0];
    const int64_t width = q->sizes[0], rows = q->sizes[1] * q->sizes[2] * q->sizes[3];
    struct cut c = cut_of(q, result->sources[1], false);
    const int64_t each = width + 2;
    /* Few units, and those of streams that may be of very different lengths, are shared out by cells: each thread has
     * every so many tiles of all of them, and then they are brought together. */
    float *parts = call->work;
    const bool few = q->sizes[1] <= SHORT || q->sizes[1] <= replies || c.streams * c.bundles * c.parts * c.blocks < 4 * call->threads;
    const bool split = few && call->threads > 1 && (size_t)(rows * call->threads * each) * sizeof(float) <= call->work_size;
    if (split || call->threads == 1) c = cut_of(q, result->sources[1], true);
    const int64_t units = c.streams * c.bundles * c.parts * c.blocks;
    if (!split && call->threads > 1) {
        if (call->thread == 0) theirs.pool_set(call->pool, call->threads);
        ggml_barrier(call->pool);
    }
    int64_t unit = split ? 0 : call->thread;
    while (unit < units) {
        const struct group g = unit_of(result, c, unit);
        attend_here(desk, &g, split ? call->thread : 0, split ? call->threads : 1);
        int r = 0;
        for (int kh = 0; kh < g.key_heads; kh++)
            for (int t = 0; t < g.tokens; t++)
                for (int h = 0; h < g.heads; h++, r++) {
                    const int64_t head = g.head + kh * g.heads + h;
                    if (split) {
                        const int64_t row = (g.stream * q->sizes[1] + g.token + t) * q->sizes[2] + head;
                        float *own = parts + (row * call->threads + call->thread) * each;
                        own[0] = desk->highest[r];
                        own[1] = desk->total[r];
                        memcpy(own + 2, desk->sums + r * width, (size_t)width * sizeof(float));
                    } else {
                        float *out = result_of(result, head, g.token + t, g.stream);
                        const float by = desk->total[r] == 0 ? 0 : 1 / desk->total[r];
                        for (int64_t d = 0; d < width; d++) out[d] = desk->sums[r * width + d] * by;
                    }
                }
        unit = split || call->threads == 1 ? unit + 1 : theirs.pool_add(call->pool, 1);
    }
    if (!split) return;
    ggml_barrier(call->pool);
    for (int64_t row = call->thread; row < rows; row += call->threads) {
        const float *own = parts + row * call->threads * each;
        float top = -INFINITY, all = 0;
        for (int i = 0; i < call->threads; i++) top = fmaxf(top, own[i * each]);
        float *out = result_of(result, row % q->sizes[2], row / q->sizes[2] % q->sizes[1], row / q->sizes[2] / q->sizes[1]);
        if (top == -INFINITY) {
            /* The row sees nothing, and all totals are 0; or what it sees is NaN throughout, and so are they. */
            for (int i = 0; i < call->threads; i++) all += own[i * each + 1];
            for (int64_t d = 0; d < width; d++) out[d] = all;
            continue;
        }
        memset(out, 0, (size_t)width * sizeof(float));
        for (int i = 0; i < call->threads; i++) all += own[i * each + 1] * exp2f(own[i * each] - top);
        for (int i = 0; i < call->threads; i++) {
            const float by = exp2f(own[i * each] - top) / all;
            for (int64_t d = 0; d < width; d++) out[d] += own[i * each + 2 + d] * by;
        }
    }
}
