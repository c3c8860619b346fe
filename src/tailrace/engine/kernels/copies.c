#include "copies.h"

#include <stdatomic.h>
#include <stdlib.h>

/* memory.c */
void *ggml_aligned_malloc(size_t size);
void ggml_aligned_free(void *memory, size_t size);

#define PLACES 4096            /* of the table; models have some hundred weights */
#define PIECE ((size_t)64 << 20) /* bytes that are asked for at a time: untouched ones cost nothing */
#define PIECE_HEAD 64          /* bytes of its own at the beginning */
#define WEIGHTS 1              /* llama.cpp's GGML_BACKEND_BUFFER_USAGE_WEIGHTS */

/* Weights without a copy stand here, too, once it is clear that they get none. */
struct entry {
    _Atomic(const void *) weights;
    const void *buffer;
    int model;
    struct interleaved copy;
};
static struct entry table[PLACES];
static int taken;

struct piece {
    struct piece *next;
    size_t used, size; /* this head counts */
    int model;
};
static struct piece *pieces;
static int64_t copied; /* bytes in all of them */

/* Of the model that is being loaded. */
static int loading;
static int64_t left;

static struct entry *place_of(const void *weights) {
    for (uint64_t i = ((uintptr_t)weights >> 5) * 0x9e3779b97f4a7c15u >> 52;; i = (i + 1) % PLACES) {
        const void *here = atomic_load_explicit(&table[i].weights, memory_order_acquire);
        if (here == weights || !here) return table + i;
    }
}

/* Memory, aligned to 64 bytes, that goes with the model. */
static uint8_t *memory_for(int model, size_t size) {
    size = (size + 63) / 64 * 64;
    if (!pieces || pieces->model != model || pieces->size - pieces->used < size) {
        const size_t all = size + PIECE_HEAD > PIECE ? size + PIECE_HEAD : PIECE;
        struct piece *piece = ggml_aligned_malloc(all);
        if (!piece) return 0;
        *piece = (struct piece){pieces, PIECE_HEAD, all, model};
        pieces = piece;
    }
    uint8_t *memory = (uint8_t *)pieces + pieces->used;
    pieces->used += size;
    copied += (int64_t)size;
    return memory;
}

/* Of a block in the file: weights, and bytes. */
static int64_t file_bytes(int type) { return super_blocks(type) ? bytes_k(type) : format_of(type).bytes; }

static int64_t bytes_of(const struct interleaved *copy) {
    return copy->rows / GROUP_ROWS * copy->blocks * bytes_of_group(copy->type);
}

static void find_room(const struct tensor *weights) {
    struct entry *entry = place_of(weights->data);
    if (taken > PLACES / 2) return;
    taken++;
    struct interleaved copy = {weights->type, weights->sizes[1], weights->sizes[0] / numbers_of(weights->type), 0};
    const int64_t bytes = bytes_of(&copy);
    if (bytes <= left && (copy.data = memory_for(loading, (size_t)bytes))) left -= bytes;
    entry->buffer = weights->buffer;
    entry->model = loading;
    entry->copy = copy;
    atomic_store_explicit(&entry->weights, weights->data, memory_order_release);
}

/* The 16 rows' blocks from x on, `row` bytes apart. */
static void copy_group(struct format f, uint8_t *group, const uint8_t *x, int64_t row) {
    const int vectors = (f.bytes - f.quants) / 4;
    for (int r = 0; r < GROUP_ROWS; r++, x += row) {
        memcpy(group + 2 * r, x, 2);
        if (f.minimum) memcpy(group + 32 + 2 * r, x + 2, 2);
        for (int c = 0; c < vectors; c++) {
            const uint32_t four = word(x + f.quants + 4 * c) ^ (f.type == Q8_0 ? 0x80808080 : 0);
            memcpy(group + group_head(f) + 64 * c + 4 * r, &four, 4);
        }
    }
}

static void copy_super(int type, uint8_t *group, const uint8_t *x, int64_t row) {
    memset(group, 0, SUPER_HEAD);
    for (int r = 0; r < GROUP_ROWS; r++, x += row) {
        uint8_t *quants = group + SUPER_HEAD + 4 * r;
        if (type == Q4_K) {
            const uint32_t a = word(x + 4), b = word(x + 8), c = word(x + 12);
            const uint32_t scales[2] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)};
            const uint32_t minima[2] = {b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
            memcpy(group + 2 * r, x, 2);
            memcpy(group + 32 + 2 * r, x + 2, 2);
            for (int n = 0; n < 8; n++) {
                group[64 + 16 * n + r] = (uint8_t)(scales[n / 4] >> 8 * (n % 4));
                group[192 + 32 * (n / 2) + 2 * r + n % 2] = (uint8_t)(minima[n / 4] >> 8 * (n % 4));
            }
            for (int v = 0; v < 32; v++) memcpy(quants + 64 * v, x + 16 + 4 * v, 4);
            continue;
        }
        memcpy(group + 2 * r, x + 208, 2);
        for (int n = 0; n < 16; n++) group[64 + 16 * n + r] = x[192 + n];
        for (int v = 0; v < 48; v++) {
            const int half = v / 24, at = v % 24;
            memcpy(quants + 64 * v, at < 8 ? x + 128 + 32 * half + 4 * at : x + 64 * half + 4 * (at - 8), 4);
        }
    }
}

static void copy_share(const struct call *call, const struct tensor *weights, const struct interleaved *copy) {
    const int type = copy->type;
    const int64_t panels = copy->rows / GROUP_ROWS, size = bytes_of_group(type), row = (int64_t)weights->strides[1];
    for (int64_t p = panels * call->thread / call->threads; p < panels * (call->thread + 1) / call->threads; p++)
        for (int64_t i = 0; i < copy->blocks; i++) {
            uint8_t *group = (uint8_t *)copy->data + (p * copy->blocks + i) * size;
            const uint8_t *x = (const uint8_t *)weights->data + p * GROUP_ROWS * row + i * file_bytes(type);
            if (super_blocks(type)) copy_super(type, group, x, row);
            else copy_group(format_of(type), group, x, row);
        }
}

/* Weights of a model, as they came from its file: nothing that is computed and no cache, which would change. */
static bool constant(const struct tensor *t) {
    return !t->operation && !t->view_of && t->buffer && theirs.buffer_usage && theirs.buffer_usage(t->buffer) == WEIGHTS;
}

const struct interleaved *copy_of(const struct call *call, const struct tensor *weights) {
    if (!taken && !left) return 0;
    if (!may_copy(weights->type)) return 0;
    struct entry *entry = place_of(weights->data);
    if (!atomic_load_explicit(&entry->weights, memory_order_relaxed)) {
        const bool fits = weights->sizes[1] % GROUP_ROWS == 0 && weights->sizes[2] == 1 && weights->sizes[3] == 1 &&
                          weights->strides[0] == (size_t)file_bytes(weights->type);
        if (!loading || !fits || !constant(weights)) return 0;
        ggml_barrier(call->pool);
        if (call->thread == 0) find_room(weights);
        ggml_barrier(call->pool);
        entry = place_of(weights->data);
        if (entry->copy.data) copy_share(call, weights, &entry->copy);
    }
    const struct interleaved *copy = &entry->copy;
    const bool same = entry->buffer == weights->buffer && copy->type == weights->type && copy->rows == weights->sizes[1] &&
                      copy->blocks * numbers_of(copy->type) == weights->sizes[0];
    return copy->data && same ? copy : 0;
}

bool copies_are_cached(void) { return copied <= CACHED; }

void tailrace_kernels_interleave(int model, int64_t bytes) {
    loading = bytes ? model : 0;
    left = bytes;
}

void tailrace_kernels_forget(int model) {
    /* Who came later may stand further on because of who goes: all others look for their places anew. */
    struct entry *others = malloc(sizeof table);
    if (!others) abort(); /* 256 KB: products with weights that are gone would be worse */
    memcpy(others, table, sizeof table);
    memset(table, 0, sizeof table);
    taken = 0;
    for (const struct entry *other = others; other < others + PLACES; other++)
        if (other->weights && other->model != model) {
            *place_of(other->weights) = *other;
            taken++;
        }
    free(others);
    for (struct piece **at = &pieces; *at;) {
        struct piece *piece = *at;
        if (piece->model != model) {
            at = &piece->next;
            continue;
        }
        *at = piece->next;
        copied -= (int64_t)piece->used - PIECE_HEAD;
        ggml_aligned_free(piece, piece->size);
    }
}

int64_t tailrace_kernels_interleaved(int model) {
    int64_t bytes = 0;
    for (const struct entry *entry = table; entry < table + PLACES; entry++)
        if (entry->copy.data && entry->model == model) bytes += bytes_of(&entry->copy);
    return bytes;
}
