/* Repacks weights while a model is loaded, and finds them for products. */
#include "loading/repack.h"

#include <stdatomic.h>
#include <stdlib.h>

#define N_ENTRIES    4096               /* of the table; models have some hundred weights */
#define ARENA_BYTES  ((size_t)64 << 20) /* allocated at a time: untouched pages cost nothing */
#define ARENA_HEADER 64                 /* bytes that an arena needs for itself */
/* 98 MB are still in the last-level cache a step later and 825 MB aren't, on a machine whose cores share one. */
#define MAX_CACHED_BYTES (256 << 20)

/* One weight matrix. Weights that are not repacked have an entry, too, with no data. */
struct entry {
    _Atomic(const void *) weights;
    const void *buffer;
    int model;
    struct repacked repacked;
};
static struct entry table[N_ENTRIES];
static int n_entries;

/* Memory for several matrices of one model. */
struct arena {
    struct arena *next;
    size_t used, size; /* with this header */
    int model;
};
static struct arena *arenas;
static int64_t total_bytes; /* in all arenas */

/* The model that is being loaded (0: none), and how many bytes may still be repacked. */
static int loading;
static int64_t budget;

/* The entry of weights, or the free one where they belong. */
static struct entry *entry_of(const void *weights) {
    for (uint64_t i = ((uintptr_t)weights >> 5) * 0x9e3779b97f4a7c15u >> 52;; i = (i + 1) % N_ENTRIES) {
        const void *found = atomic_load_explicit(&table[i].weights, memory_order_acquire);
        if (found == weights || !found) return table + i;
    }
}

/* Memory, aligned to 64 bytes, that is freed with the model; 0 where there is none. */
static uint8_t *allocate(int model, size_t size) {
    size = (size + 63) / 64 * 64;
    if (!arenas || arenas->model != model || arenas->size - arenas->used < size) {
        const size_t bytes = size + ARENA_HEADER > ARENA_BYTES ? size + ARENA_HEADER : ARENA_BYTES;
        struct arena *arena = ggml_aligned_malloc(bytes);
        if (!arena) return 0;
        *arena = (struct arena){arenas, ARENA_HEADER, bytes, model};
        arenas = arena;
    }
    uint8_t *memory = (uint8_t *)arenas + arenas->used;
    arenas->used += size;
    total_bytes += (int64_t)size;
    return memory;
}

static int64_t repacked_bytes(const struct repacked *repacked) {
    return repacked->n_rows / GROUP_ROWS * repacked->n_blocks * group_bytes(repacked->format);
}

/* The rows of a matrix, or of all matrices of a tensor for experts. */
static int64_t n_rows_of(const struct ggml_tensor *weights) { return weights->ne[1] * weights->ne[2]; }

/* Make the entry of weights, with memory if the budget has it. One thread does this. */
static void add_entry(const struct ggml_tensor *weights, enum format format) {
    struct entry *entry = entry_of(weights->data);
    if (n_entries > N_ENTRIES / 2) return;
    n_entries++;
    struct repacked repacked = {format, n_rows_of(weights), weights->ne[0] / traits_of(format).weights, 0};
    const int64_t bytes = repacked_bytes(&repacked);
    if (bytes <= budget && (repacked.data = allocate(loading, (size_t)bytes))) budget -= bytes;
    entry->buffer = weights->buffer;
    entry->model = loading;
    entry->repacked = repacked;
    atomic_store_explicit(&entry->weights, weights->data, memory_order_release);
}

/* ---- One group --------------------------------------------------------------------------------------------------- */

/* One block of 32 weights of each of 16 rows. */
INLINE void repack_blocks(enum format format, uint8_t *group, const uint8_t *block, int64_t row_bytes) {
    const struct format_traits t = traits_of(format);
    const int n_vectors = (t.bytes - t.quants_at) / 4;
    for (int r = 0; r < GROUP_ROWS; r++, block += row_bytes) {
        memcpy(group + t.scale_bytes * r, block + t.scale_at, (size_t)t.scale_bytes);
        if (t.has_min) memcpy(group + 32 + 2 * r, block + t.min_at, 2);
        for (int c = 0; c < n_vectors; c++) {
            const uint32_t quants =
                load_u32(block + t.quants_at + 4 * c) ^ (t.encoding == SIGNED_BYTES ? 0x80808080 : 0);
            memcpy(group + quants_at(format) + 64 * c + 4 * r, &quants, 4);
        }
    }
}

static void repack_q4_k(uint8_t *group, const uint8_t *row, int64_t row_bytes) {
    memset(group, 0, SUPER_QUANTS_AT);
    for (int r = 0; r < GROUP_ROWS; r++, row += row_bytes) {
        const block_q4_K *block = (const block_q4_K *)row;
        const uint32_t a = load_u32(block->scales), b = load_u32(block->scales + 4), c = load_u32(block->scales + 8);
        const uint32_t scales[2] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)};
        const uint32_t mins[2] = {b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
        memcpy(group + 2 * r, &block->d, 2);
        memcpy(group + 32 + 2 * r, &block->dmin, 2);
        for (int n = 0; n < 8; n++) {
            group[SUPER_SCALES_AT + 16 * n + r] = (uint8_t)(scales[n / 4] >> 8 * (n % 4));
            group[SUPER_MINS_AT + 32 * (n / 2) + 2 * r + n % 2] = (uint8_t)(mins[n / 4] >> 8 * (n % 4));
        }
        for (int v = 0; v < 32; v++) memcpy(group + SUPER_QUANTS_AT + 64 * v + 4 * r, block->qs + 4 * v, 4);
    }
}

static void repack_q6_k(uint8_t *group, const uint8_t *row, int64_t row_bytes) {
    memset(group, 0, SUPER_QUANTS_AT);
    for (int r = 0; r < GROUP_ROWS; r++, row += row_bytes) {
        const block_q6_K *block = (const block_q6_K *)row;
        memcpy(group + 2 * r, &block->d, 2);
        for (int n = 0; n < 16; n++) group[SUPER_SCALES_AT + 16 * n + r] = (uint8_t)block->scales[n];
        for (int v = 0; v < 48; v++) {
            const int half = v / 24, at = v % 24;
            const uint8_t *quants = at < 8 ? block->qh + 32 * half + 4 * at : block->ql + 64 * half + 4 * (at - 8);
            memcpy(group + SUPER_QUANTS_AT + 64 * v + 4 * r, quants, 4);
        }
    }
}

static void repack_group(enum format format, uint8_t *group, const uint8_t *block, int64_t row_bytes) {
    switch (format) {
        case Q4_0: repack_blocks(Q4_0, group, block, row_bytes); return;
        case Q4_1: repack_blocks(Q4_1, group, block, row_bytes); return;
        case Q8_0: repack_blocks(Q8_0, group, block, row_bytes); return;
        case IQ4_NL: repack_blocks(IQ4_NL, group, block, row_bytes); return;
        case MXFP4: repack_blocks(MXFP4, group, block, row_bytes); return;
        case Q4_K: repack_q4_k(group, block, row_bytes); return;
        case Q6_K: repack_q6_k(group, block, row_bytes); return;
        case Q5_0:
        case Q5_1:
        case Q5_K: break; /* NO in the column `repacked` */
    }
    __builtin_unreachable();
}

/* This thread's share of the panels. */
static void repack_share(const struct ggml_compute_params *params, const struct ggml_tensor *weights,
                         const struct repacked *repacked) {
    const enum format format = repacked->format;
    const int64_t n_panels = repacked->n_rows / GROUP_ROWS, bytes = group_bytes(format);
    const int64_t row_bytes = (int64_t)weights->nb[1], block_bytes = traits_of(format).bytes;
    const int64_t begin = n_panels * params->ith / params->nth, end = n_panels * (params->ith + 1) / params->nth;
    for (int64_t p = begin; p < end; p++)
        for (int64_t i = 0; i < repacked->n_blocks; i++) {
            uint8_t *group = (uint8_t *)repacked->data + (p * repacked->n_blocks + i) * bytes;
            repack_group(format, group, (const uint8_t *)weights->data + p * GROUP_ROWS * row_bytes + i * block_bytes,
                         row_bytes);
        }
}

/* ---- Finding ----------------------------------------------------------------------------------------------------- */

/* Weights of a model as its file has them. Tensors that are computed change, and so does a KV cache. */
static bool is_constant(const struct ggml_tensor *t) {
    return t->op == GGML_OP_NONE && !t->view_src && t->buffer && upstream.ggml_backend_buffer_get_usage &&
           upstream.ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

const struct repacked *find_repacked(const struct ggml_compute_params *params, const struct ggml_tensor *weights) {
    enum format format;
    if (!n_entries && !budget) return 0;
    if (!find_format(weights->type, &format) || !traits_of(format).repacked) return 0;
    struct entry *entry = entry_of(weights->data);
    if (!atomic_load_explicit(&entry->weights, memory_order_relaxed)) {
        const bool fits = weights->ne[1] % GROUP_ROWS == 0 && weights->ne[3] == 1 &&
                          weights->nb[2] == weights->nb[1] * (size_t)weights->ne[1] &&
                          weights->nb[0] == (size_t)traits_of(format).bytes;
        if (!loading || !fits || !can_share_work(params) || !is_constant(weights)) return 0;
        if (params->nth > 1) ggml_barrier(params->threadpool);
        if (params->ith == 0) add_entry(weights, format);
        if (params->nth > 1) ggml_barrier(params->threadpool);
        entry = entry_of(weights->data);
        if (entry->repacked.data) repack_share(params, weights, &entry->repacked);
    }
    return repacked_of(weights);
}

const struct repacked *repacked_of(const struct ggml_tensor *weights) {
    enum format format;
    if (!n_entries || !find_format(weights->type, &format)) return 0;
    const struct entry *entry = entry_of(weights->data);
    const struct repacked *repacked = &entry->repacked;
    const bool same = atomic_load_explicit(&entry->weights, memory_order_acquire) && entry->buffer == weights->buffer && repacked->format == format &&
                      repacked->n_rows == n_rows_of(weights) &&
                      repacked->n_blocks * traits_of(format).weights == weights->ne[0];
    return repacked->data && same ? repacked : 0;
}

bool repacked_is_cached(void) { return total_bytes <= MAX_CACHED_BYTES; }

/* ---- Models ------------------------------------------------------------------------------------------------------ */

/* Up to `bytes` of the weights of `model` are repacked from now on; 0: no further ones. Not to be called while anything
 * is computed, and one model is loaded at a time. */
EXPORT void tailrace_kernels_set_repack_budget(int model, int64_t bytes) {
    loading = bytes ? model : 0;
    budget = bytes;
}

/* Free the repacked weights of a model. Call it before the model's own weights are freed: others may be allocated
 * there. */
EXPORT void tailrace_kernels_free_repacked(int model) {
    /* An entry may stand further on because of one that is removed, so all others are inserted anew. */
    struct entry *others = malloc(sizeof table);
    if (!others) abort(); /* 256 KB: products with weights that are gone would be worse */
    memcpy(others, table, sizeof table);
    memset(table, 0, sizeof table);
    n_entries = 0;
    for (const struct entry *other = others; other < others + N_ENTRIES; other++)
        if (other->weights && other->model != model) {
            *entry_of(other->weights) = *other;
            n_entries++;
        }
    free(others);
    for (struct arena **at = &arenas; *at;) {
        struct arena *arena = *at;
        if (arena->model != model) {
            at = &arena->next;
            continue;
        }
        *at = arena->next;
        total_bytes -= (int64_t)arena->used - ARENA_HEADER;
        ggml_aligned_free(arena, arena->size);
    }
}

EXPORT int64_t tailrace_kernels_repacked_bytes(int model) {
    int64_t bytes = 0;
    for (const struct entry *entry = table; entry < table + N_ENTRIES; entry++)
        if (entry->repacked.data && entry->model == model) bytes += repacked_bytes(&entry->repacked);
    return bytes;
}
