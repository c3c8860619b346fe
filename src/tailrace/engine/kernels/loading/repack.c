/* Repacks weights while a model is loaded, and finds them for products. */
#include "loading/repack.h"

#include "loading/served_weights.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define N_ENTRIES       4096               /* of the table; models have some hundred weights */
#define ARENA_BYTES     ((size_t)64 << 20) /* allocated at a time: untouched pages cost nothing */
#define MAX_BLOCK_BYTES 256                /* of a block or a super-block of any format */
#define ARENA_HEADER    64                 /* bytes that an arena needs for itself */
/* 98 MB are still in the last-level cache a step later and 825 MB aren't, on a machine whose cores share one. */
#define MAX_CACHED_BYTES         (256 << 20)
#define LAST_LEVEL_SIZE          "/sys/devices/system/cpu/cpu0/cache/index3/size"
#define DEFAULT_LAST_LEVEL_BYTES ((int64_t)128 << 20) /* where the kernel doesn't say it */

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
    return n_panels_of(repacked) * repacked->n_blocks * group_bytes(repacked->format);
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
    struct served_model *served = loading ? 0 : served_model_of(weights->buffer);
    const int model = served ? served->number : loading;
    int64_t *left = served ? &served->budget : &budget;
    if (model && bytes <= *left && (repacked.data = allocate(model, (size_t)bytes))) *left -= bytes;
    entry->buffer = weights->buffer;
    entry->model = model;
    entry->repacked = repacked;
    atomic_store_explicit(&entry->weights, weights->data, memory_order_release);
}

/* ---- One group --------------------------------------------------------------------------------------------------- */

/* Single bits of 32 weights in the order of the layout: bit 4 c + k becomes bit c of byte k. */
INLINE uint32_t transpose_bits(uint32_t bits) {
    uint32_t found = 0;
    for (int c = 0; c < 8; c++)
        for (int k = 0; k < 4; k++) found |= (bits >> (4 * c + k) & 1) << (8 * k + c);
    return found;
}

/* One block of 32 weights of each of 16 rows. */
INLINE void repack_blocks(enum format format, uint8_t *group, const uint8_t *block, int64_t row_bytes) {
    const struct format_traits t = traits_of(format);
    const int n_vectors = (t.bytes - t.quants_at) / 4;
    for (int r = 0; r < GROUP_ROWS; r++, block += row_bytes) {
        memcpy(group + t.scale_bytes * r, block + t.scale_at, (size_t)t.scale_bytes);
        if (t.has_min) memcpy(group + 32 + 2 * r, block + t.min_at, 2);
        if (t.encoding == NIBBLES_AND_FIFTH) {
            const uint32_t fifths = transpose_bits(load_u32(block + t.quants_at - 4));
            memcpy(group + quants_at(format) - 64 + 4 * r, &fifths, 4);
        }
        for (int c = 0; c < n_vectors; c++) {
            const uint32_t quants =
                load_u32(block + t.quants_at + 4 * c) ^ (t.encoding == SIGNED_BYTES ? 0x80808080 : 0);
            memcpy(group + quants_at(format) + 64 * c + 4 * r, &quants, 4);
        }
    }
}

/* `size` bytes of quants of row r, whose first vector is at `to`. */
INLINE void interleave(uint8_t *to, const uint8_t *quants, int size, int r) {
    for (int v = 0; v < size / 4; v++) memcpy(to + 64 * v + 4 * r, quants + 4 * v, 4);
}

/* Bit `n` of each of 32 bytes, of row r, whose vector is at `to`. */
INLINE void interleave_bits(uint8_t *to, const uint8_t *bytes, int n, int r) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) bits |= (uint32_t)(bytes[i] >> n & 1) << i;
    bits = transpose_bits(bits);
    memcpy(to + 4 * r, &bits, 4);
}

/* Eight 6-bit scales and minima of Q4_K and Q5_K. */
INLINE void repack_k4_scales(uint8_t *group, const uint8_t *packed, int r) {
    const uint32_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
    const uint32_t scales[2] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)};
    const uint32_t mins[2] = {b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
    for (int n = 0; n < 8; n++) {
        group[SUPER_SCALES_AT + 16 * n + r] = (uint8_t)(scales[n / 4] >> 8 * (n % 4));
        group[SUPER_MINS_AT + 32 * (n / 2) + 2 * r + n % 2] = (uint8_t)(mins[n / 4] >> 8 * (n % 4));
    }
}

/* Scales, minima and quants of a super-block, which is row r of a group. */
INLINE void repack_super_row(enum format format, uint8_t *group, const uint8_t *row, int r) {
    uint8_t *scales = group + SUPER_SCALES_AT, *quants = group + super_quants_at(format);
    switch (format) {
        case Q2_K: {
            const block_q2_K *block = (const block_q2_K *)row;
            for (int n = 0; n < 16; n++) scales[32 * (n / 2) + 2 * r + n % 2] = block->scales[n];
            interleave(quants, block->qs, 64, r);
            return;
        }
        case Q3_K: {
            const block_q3_K *block = (const block_q3_K *)row;
            for (int n = 0; n < 16; n++)
                scales[16 * n + r] = (uint8_t)((q3_k_scales(block->scales, n / 4) >> 8 * (n % 4) & 63) - 32);
            for (int n = 0; n < 8; n++) interleave_bits(quants + 768 * (n / 4) + 64 * (n % 4), block->hmask, n, r);
            for (int half = 0; half < 2; half++) interleave(quants + 768 * half + 256, block->qs + 32 * half, 32, r);
            return;
        }
        case Q4_K: {
            const block_q4_K *block = (const block_q4_K *)row;
            repack_k4_scales(group, block->scales, r);
            interleave(quants, block->qs, 128, r);
            return;
        }
        case Q5_K: {
            const block_q5_K *block = (const block_q5_K *)row;
            repack_k4_scales(group, block->scales, r);
            for (int n = 0; n < 8; n++) interleave_bits(quants + 640 * (n / 2) + 64 * (n % 2), block->qh, n, r);
            for (int g = 0; g < 4; g++) interleave(quants + 640 * g + 128, block->qs + 32 * g, 32, r);
            return;
        }
        case Q6_K: {
            const block_q6_K *block = (const block_q6_K *)row;
            for (int n = 0; n < 16; n++) scales[16 * n + r] = (uint8_t)block->scales[n];
            for (int half = 0; half < 2; half++) {
                interleave(quants + 1536 * half, block->qh + 32 * half, 32, r);
                interleave(quants + 1536 * half + 512, block->ql + 64 * half, 64, r);
            }
            return;
        }
        case IQ4_XS: {
            const block_iq4_xs *block = (const block_iq4_xs *)row;
            for (int n = 0; n < 8; n++) {
                const int low = block->scales_l[n / 2] >> 4 * (n % 2) & 15, high = block->scales_h >> 2 * n & 3;
                scales[16 * n + r] = (uint8_t)((low | high << 4) - 32);
            }
            interleave(quants, block->qs, 128, r);
            return;
        }
        case Q4_0:
        case Q4_1:
        case Q5_0:
        case Q5_1:
        case Q8_0:
        case IQ4_NL:
        case MXFP4:
        case F16:
        case BF16: break; /* no super-blocks */
    }
    __builtin_unreachable();
}

/* 32 numbers of each of 16 rows. */
INLINE void repack_floats(enum format format, uint8_t *group, const uint8_t *row, int64_t row_bytes) {
    const int size = format == F16 ? 2 : 4; /* bytes of a row that lie together */
    for (int r = 0; r < GROUP_ROWS; r++, row += row_bytes)
        for (int v = 0; v < 64 / size; v++)
            memcpy(group + GROUP_ROWS * size * v + size * r, row + size * v, (size_t)size);
}

/* A group of blocks or super-blocks. */
INLINE void repack_group(enum format format, uint8_t *group, const uint8_t *block, int64_t row_bytes) {
    const struct format_traits t = traits_of(format);
    if (has_floats(format)) {
        repack_floats(format, group, block, row_bytes);
        return;
    }
    if (!is_super_block(format)) {
        repack_blocks(format, group, block, row_bytes);
        return;
    }
    memset(group, 0, SUPER_SCALES_AT);
    for (int r = 0; r < GROUP_ROWS; r++, block += row_bytes) {
        memcpy(group + 2 * r, block + t.scale_at, 2);
        if (t.has_min) memcpy(group + 32 + 2 * r, block + t.min_at, 2);
        repack_super_row(format, group, block, r);
    }
}

/* One block of each of 16 rows. */
static void repack_any_group(enum format format, uint8_t *group, const uint8_t *block, int64_t row_bytes) {
#define REPACK(name, ...)                                                                                              \
    case name: repack_group(name, group, block, row_bytes); return;
    switch (format) { FORMATS(REPACK) }
    __builtin_unreachable();
}

/* One block of each of the last rows, which are fewer than 16, and zeros. */
static void repack_last_group(enum format format, uint8_t *group, const uint8_t *block, int64_t row_bytes,
                              int64_t n_rows) {
    uint8_t blocks[GROUP_ROWS * MAX_BLOCK_BYTES] = {0};
    const int64_t bytes = traits_of(format).bytes;
    for (int64_t r = 0; r < n_rows; r++) memcpy(blocks + r * bytes, block + r * row_bytes, (size_t)bytes);
    repack_any_group(format, group, blocks, bytes);
}

/* This thread's share of the panels. */
static void repack_share(const struct ggml_compute_params *params, const struct ggml_tensor *weights,
                         const struct repacked *repacked) {
    const enum format format = repacked->format;
    const int64_t n_panels = n_panels_of(repacked), bytes = group_bytes(format);
    const int64_t row_bytes = (int64_t)weights->nb[1], block_bytes = traits_of(format).bytes;
    const int64_t begin = n_panels * params->ith / params->nth, end = n_panels * (params->ith + 1) / params->nth;
    for (int64_t p = begin; p < end; p++)
        for (int64_t i = 0; i < repacked->n_blocks; i++) {
            uint8_t *group = (uint8_t *)repacked->data + (p * repacked->n_blocks + i) * bytes;
            const uint8_t *block = (const uint8_t *)weights->data + p * GROUP_ROWS * row_bytes + i * block_bytes;
            const int64_t left = repacked->n_rows - p * GROUP_ROWS;
            if (left < GROUP_ROWS) repack_last_group(format, group, block, row_bytes, left);
            else repack_any_group(format, group, block, row_bytes);
        }
}

/* ---- Finding ----------------------------------------------------------------------------------------------------- */

/* Weights of a model as its file has them. Tensors that are computed change, and so does a KV cache. */
static bool is_constant(const struct ggml_tensor *t) {
    if (t->op != GGML_OP_NONE || t->view_src || !t->buffer) return false;
    if (!loading) return has_served_weights(t->buffer);
    return upstream.ggml_backend_buffer_get_usage &&
           upstream.ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

const struct repacked *find_repacked(const struct ggml_compute_params *params, const struct ggml_tensor *weights) {
    enum format format;
    if (!n_entries && !budget && !serves_weights()) return 0;
    if (!find_format(weights->type, &format)) return 0;
    struct entry *entry = entry_of(weights->data);
    if (!atomic_load_explicit(&entry->weights, memory_order_relaxed)) {
        /* Matrices of experts lie one after the other, so only whole groups can be theirs. */
        const bool whole = weights->ne[1] % GROUP_ROWS == 0 || (weights->ne[2] == 1 && weights->ne[1] > GROUP_ROWS);
        const bool fits = is_repacked(format) && whole && weights->ne[3] == 1 &&
                          weights->nb[2] == weights->nb[1] * (size_t)weights->ne[1] &&
                          weights->nb[0] == (size_t)traits_of(format).type_bytes &&
                          weights->ne[0] % traits_of(format).weights == 0;
        if (!fits || !can_share_work(params) || !is_constant(weights)) return 0;
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
    const bool same = atomic_load_explicit(&entry->weights, memory_order_acquire) && entry->buffer == weights->buffer &&
                      repacked->format == format && repacked->n_rows == n_rows_of(weights) &&
                      repacked->n_blocks * traits_of(format).weights == weights->ne[0];
    return repacked->data && same ? repacked : 0;
}

/* The size of the last-level cache that core 0 has or shares. */
static int64_t last_level_bytes(void) {
    static int64_t found;
    if (found) return found;
    FILE *file = fopen(LAST_LEVEL_SIZE, "r");
    long kilobytes = 0;
    const bool is_read = file && fscanf(file, "%ldK", &kilobytes) == 1 && kilobytes > 0;
    if (file) fclose(file);
    return found = is_read ? (int64_t)kilobytes << 10 : DEFAULT_LAST_LEVEL_BYTES;
}

/* Whether this CPU reads memory faster where few tokens' products prefetch nothing. */
static bool prefetches_itself(void) {
#ifdef __x86_64__
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

static int always_from = -1;

/* Prefetch all repacked weights as those that come from there (enum weights_from); -1: as their size says. Tests use it,
 * whose weights are small. */
EXPORT void tailrace_kernels_prefetch_as_from(int from) { always_from = from; }

/* Blocks of 32 are prefetched as from the cache up to a size that only larger caches hold. From memory, Q5_K takes 1.2
 * times as long that way, and the starter model 0.93. Tokens of more than one tile find a panel in the first-level cache,
 * so no CPU gains there by not prefetching: a prompt of the starter model takes 1.03 times as long. */
enum weights_from repacked_come_from(enum format format, int64_t n_tokens) {
    if (always_from >= 0) return (enum weights_from)always_from;
    if (n_tokens <= TILE_TOKENS && total_bytes > last_level_bytes() && prefetches_itself()) return UNPREFETCHED_MEMORY;
    return total_bytes <= (is_super_block(format) ? last_level_bytes() : MAX_CACHED_BYTES) ? CACHE : MEMORY;
}

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
