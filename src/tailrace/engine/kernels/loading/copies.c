/* Copies of cells into a state and back, piece by piece: ggml_backend_tensor_get and ggml_backend_tensor_set.
 *
 * llama.cpp writes and reads the state of a sequence at once: first which cells it has, then the cells' rows, tensor by
 * tensor. While copies are deferred, the rows of recorded cells (cells.c) are noted here, and copied later between steps.
 * All other tensors, recurrent states and sliding windows among them, are copied at once: steps move them. */
#include <stdlib.h>

#include "loading/cells.h"
#include "loading/ggml_api.h"

struct copy {
    char *to;
    const char *from;
    size_t size;
};

struct copies {
    struct copy *items;
    int64_t count, capacity;
    int64_t next; /* the first copy that isn't made */
    size_t done;  /* its bytes that are */
};

static _Thread_local struct copies *deferred; /* 0: copies are made at once */
static _Thread_local int deferred_owner;
static _Thread_local const uint8_t *kept_rows; /* 0: all */
static _Thread_local int64_t n_rows;
static _Thread_local const struct ggml_tensor *last_tensor;
static _Thread_local int64_t next_row; /* of the state's rows of `last_tensor` */

EXPORT void tailrace_kernels_free_copies(struct copies *copies) {
    if (copies) free(copies->items);
    free(copies);
}

/* Until the next call, defer this thread's copies of KV cache `owner`. `kept`: for each of `rows` rows of the state that
 * is read whether it is wanted; 0: all are. False where there is no memory for the list. */
EXPORT bool tailrace_kernels_defer_copies(int owner, const uint8_t *kept, int64_t rows) {
    deferred = calloc(1, sizeof *deferred);
    deferred_owner = owner;
    kept_rows = kept;
    n_rows = rows;
    last_tensor = 0;
    return deferred != 0;
}

/* End what `defer_copies` has begun. Returns the list, which the caller frees. */
EXPORT struct copies *tailrace_kernels_take_copies(void) {
    struct copies *copies = deferred;
    deferred = 0;
    return copies;
}

/* Make copies of `max_bytes` at most. Returns whether all are made. The memory of both sides must still be there. */
EXPORT bool tailrace_kernels_advance_copies(struct copies *copies, int64_t max_bytes) {
    size_t left = (size_t)max_bytes;
    while (copies->next < copies->count && left) {
        const struct copy *copy = &copies->items[copies->next];
        const size_t rest = copy->size - copies->done, size = rest < left ? rest : left;
        memcpy(copy->to + copies->done, copy->from + copies->done, size);
        left -= size;
        copies->done += size;
        if (copies->done == copy->size) {
            copies->next++;
            copies->done = 0;
        }
    }
    return copies->next == copies->count;
}

/* Note a copy, as a part of the one before where it continues it. False where there is no memory for it. */
static bool note(char *to, const char *from, size_t size) {
    struct copy *last = deferred->count ? &deferred->items[deferred->count - 1] : 0;
    if (last && last->to + last->size == to && last->from + last->size == from) {
        last->size += size;
        return true;
    }
    if (deferred->count == deferred->capacity) {
        const int64_t capacity = deferred->capacity ? 2 * deferred->capacity : 256;
        struct copy *items = realloc(deferred->items, (size_t)capacity * sizeof *items);
        if (!items) return false;
        deferred->items = items;
        deferred->capacity = capacity;
    }
    deferred->items[deferred->count++] = (struct copy){to, from, size};
    return true;
}

static bool is_deferred(const struct ggml_tensor *tensor, size_t offset, size_t size) {
    return deferred && size && is_of_cells(deferred_owner, (const char *)tensor->data + offset, size);
}

EXPORT void ggml_backend_tensor_get(const struct ggml_tensor *tensor, void *data, size_t offset, size_t size) {
    if (is_deferred(tensor, offset, size) && note(data, (const char *)tensor->data + offset, size)) return;
    if (upstream.ggml_backend_tensor_get) upstream.ggml_backend_tensor_get(tensor, data, offset, size);
}

EXPORT void ggml_backend_tensor_set(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size) {
    if (!upstream.ggml_backend_tensor_set) return;
    const size_t row = is_deferred(tensor, offset, size) ? tensor->nb[1] : 0;
    if (!row || size % row || offset % row) {
        upstream.ggml_backend_tensor_set(tensor, data, offset, size);
        return;
    }
    if (tensor != last_tensor) next_row = 0;
    last_tensor = tensor;
    for (size_t at = 0; at < size; at += row, next_row++) {
        if (kept_rows && next_row < n_rows && !kept_rows[next_row]) continue;
        char *to = (char *)tensor->data + offset + at;
        if (!note(to, (const char *)data + at, row))
            upstream.ggml_backend_tensor_set(tensor, (const char *)data + at, offset + at, row);
    }
}
