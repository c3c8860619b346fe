/* Copies of cells into a state and back, piece by piece: ggml_backend_tensor_get and ggml_backend_tensor_set.
 *
 * llama.cpp writes and reads the state of a sequence at once: first which cells it has, then the cells' rows, tensor by
 * tensor. While copies are deferred, the rows of recorded cells (cells.c) are noted here, and copied later between steps.
 * All other tensors, recurrent states and sliding windows among them, are copied at once: steps change them. On a device
 * they are copied within its memory (snapshots.c), and read from there later.
 *
 * Rows may be on a device. Reading from a worker takes a round trip for each call, so rows near each other are read by
 * one call, together with what lies between them. Writing waits for no answer. */
#include <stdlib.h>
#include <time.h>

#include "graph/inputs.h"
#include "loading/cells.h"
#include "loading/copies.h"
#include "loading/ggml_api.h"
#include "loading/masks.h"
#include "loading/snapshots.h"
#include "loading/served_weights.h"

/* Bytes between two rows on a device up to which both are read by one call: a round trip takes longer. */
#define MAX_GAP ((size_t)64 << 10)
/* Bytes that a call to a device counts for, beside its own: so many could be copied in the time. */
#define CALL_BYTES ((size_t)4 << 10)

struct copies {
    struct copy *items;
    int64_t count, capacity;
    int64_t next; /* the first copy that isn't made */
    size_t done;  /* its bytes that are */
    struct snapshot *snapshots;
    char *buffer; /* for rows of a device with gaps between them */
    size_t buffer_size;
};

static _Thread_local struct copies *deferred; /* 0: copies are made at once */
static _Thread_local int deferred_owner;
static _Thread_local const uint8_t *kept_rows; /* 0: all */
static _Thread_local int64_t n_rows;
static _Thread_local const struct ggml_tensor *last_tensor;
static _Thread_local int64_t next_row; /* of the state's rows of `last_tensor` */

EXPORT void tailrace_kernels_free_copies(struct copies *copies) {
    if (copies) {
        free(copies->items);
        free(copies->buffer);
        release_snapshots(copies->snapshots);
    }
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

/* Bytes that this thread's calls have read from devices and written to them. */
static _Thread_local int64_t device_read, device_written;

EXPORT void tailrace_kernels_device_bytes(int64_t *read, int64_t *written) {
    *read = device_read;
    *written = device_written;
}

static void read_device(const struct ggml_tensor *tensor, void *data, size_t offset, size_t size) {
    upstream.ggml_backend_tensor_get(tensor, data, offset, size);
    device_read += (int64_t)size;
}

static void write_device(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size) {
    upstream.ggml_backend_tensor_set(tensor, data, offset, size);
    device_written += (int64_t)size;
}

/* Read the next copies by one call: as many of the same tensor as lie near each other, of `max_bytes` with what lies
 * between them. Where there is no memory for that, one copy. Returns the bytes. */
static size_t read_rows(struct copies *copies, size_t max_bytes) {
    const struct copy *first = &copies->items[copies->next];
    const size_t begin = first->offset + copies->done;
    size_t end = first->offset + first->size;
    if (end - begin > max_bytes) end = begin + max_bytes;
    int64_t last = copies->next;
    while (last + 1 < copies->count) {
        const struct copy *next = &copies->items[last + 1];
        if (next->tensor != first->tensor || next->from || next->offset < end || next->offset - end > MAX_GAP) break;
        if (next->offset + next->size - begin > max_bytes) break;
        end = next->offset + next->size;
        last++;
    }
    const size_t size = end - begin;
    if (last > copies->next && size > copies->buffer_size) {
        char *buffer = realloc(copies->buffer, size);
        if (buffer) {
            copies->buffer = buffer;
            copies->buffer_size = size;
        }
    }
    if (last == copies->next || size > copies->buffer_size) {
        const size_t own = first->size - copies->done < max_bytes ? first->size - copies->done : max_bytes;
        read_device(first->tensor, first->to + copies->done, begin, own);
        copies->done += own;
        if (copies->done == first->size) {
            copies->next++;
            copies->done = 0;
        }
        return own;
    }
    read_device(first->tensor, copies->buffer, begin, size);
    for (; copies->next <= last; copies->next++, copies->done = 0) {
        const struct copy *copy = &copies->items[copies->next];
        const size_t from = copy->offset + copies->done;
        memcpy(copy->to + copies->done, copies->buffer + (from - begin), copy->size - copies->done);
    }
    return size;
}

/* Make a part of the next copy, of `max_bytes` at most. Returns its bytes. */
static size_t advance_one(struct copies *copies, size_t max_bytes) {
    const struct copy *copy = &copies->items[copies->next];
    if (copy->tensor && !copy->from) return read_rows(copies, max_bytes);
    const size_t rest = copy->size - copies->done, size = rest < max_bytes ? rest : max_bytes;
    if (copy->tensor) write_device(copy->tensor, copy->from + copies->done, copy->offset + copies->done, size);
    else memcpy(copy->to + copies->done, copy->from + copies->done, size);
    copies->done += size;
    if (copies->done == copy->size) {
        copies->next++;
        copies->done = 0;
    }
    return size;
}

/* End what `defer_copies` has begun. Returns the list, which the caller frees. */
EXPORT struct copies *tailrace_kernels_take_copies(void) {
    struct copies *copies = deferred;
    deferred = 0;
    copies->snapshots = take_snapshots(copies->items, copies->count);
    for (int64_t i = 0; i < copies->count; i++) {
        struct copy *copy = &copies->items[i];
        if (!copy->is_fleeting) continue;
        read_device(copy->tensor, copy->to, copy->offset, copy->size);
        *copy = (struct copy){.to = copy->to, .from = copy->to};
    }
    return copies;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Make copies of `max_bytes` at most; no call to a device begins `max_ns` after the first. What was written to a device
 * has arrived when this returns. Returns whether all copies are made. The memory of both sides must still be there. */
EXPORT bool tailrace_kernels_advance_copies(struct copies *copies, int64_t max_bytes, int64_t max_ns) {
    const int64_t end = now_ns() + max_ns;
    size_t left = (size_t)max_bytes;
    const struct copy *written = 0;
    while (copies->next < copies->count && left) {
        const struct copy *copy = &copies->items[copies->next];
        if (copy->tensor && left < (size_t)max_bytes && (left <= CALL_BYTES || now_ns() >= end)) break;
        if (copy->tensor && copy->from) written = copy;
        const size_t taken = advance_one(copies, left) + (copy->tensor ? CALL_BYTES : 0);
        left -= taken < left ? taken : left;
    }
    char last;
    if (written) upstream.ggml_backend_tensor_get(written->tensor, &last, written->offset, 1);
    return copies->next == copies->count;
}

/* Note a copy, as a part of the one before where it continues it. False where there is no memory for it. */
static bool note(struct copy copy) {
    struct copy *last = deferred->count ? &deferred->items[deferred->count - 1] : 0;
    const size_t expected = last && copy.tensor ? last->offset + last->size : 0;
    const bool is_alike = last && last->tensor == copy.tensor && last->is_fleeting == copy.is_fleeting;
    const bool continues = is_alike && expected == copy.offset;
    const bool to = last && (copy.to ? last->to + last->size == copy.to : !last->to);
    const bool from = last && (copy.from ? last->from + last->size == copy.from : !last->from);
    if (continues && to && from) {
        last->size += copy.size;
        return true;
    }
    if (deferred->count == deferred->capacity) {
        const int64_t capacity = deferred->capacity ? 2 * deferred->capacity : 256;
        struct copy *items = realloc(deferred->items, (size_t)capacity * sizeof *items);
        if (!items) return false;
        deferred->items = items;
        deferred->capacity = capacity;
    }
    deferred->items[deferred->count++] = copy;
    return true;
}

static bool is_deferred(const struct ggml_tensor *tensor, size_t offset, size_t size) {
    if (!deferred || !size) return false;
    return is_on_device(deferred_owner, tensor) ||
           is_of_cells(deferred_owner, (const char *)tensor->data + offset, size);
}

static bool is_host(const struct ggml_tensor *tensor) {
    struct ggml_backend_buffer *buffer = tensor->view_src ? tensor->view_src->buffer : tensor->buffer;
    return !buffer || !upstream.ggml_backend_buffer_is_host || upstream.ggml_backend_buffer_is_host(buffer);
}

EXPORT void ggml_backend_tensor_get(const struct ggml_tensor *tensor, void *data, size_t offset, size_t size) {
    if (!upstream.ggml_backend_tensor_get) return;
    const bool host = is_host(tensor);
    const bool is_lasting = is_deferred(tensor, offset, size);
    if (is_lasting || (deferred && size && !host)) {
        const struct copy of_host = {.to = data, .from = (const char *)tensor->data + offset, .size = size};
        const struct copy of_device = {.to = data,
                                       .size = size,
                                       .tensor = (struct ggml_tensor *)(uintptr_t)tensor,
                                       .offset = offset,
                                       .is_fleeting = !is_lasting};
        if (note(host ? of_host : of_device)) return;
    }
    if (host) upstream.ggml_backend_tensor_get(tensor, data, offset, size);
    else read_device(tensor, data, offset, size);
}

EXPORT void ggml_backend_tensor_set(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size) {
    if (!upstream.ggml_backend_tensor_set) return;
    note_change(tensor->view_src ? tensor->view_src->buffer : tensor->buffer);
    if (receive_mask_runs(tensor, data, offset, size)) return;
    const bool host = is_host(tensor);
    if (!host && (send_mask_runs(tensor, data, offset, size) || send_input(tensor, tensor, data, offset, size))) return;
    const size_t row = is_deferred(tensor, offset, size) ? tensor->nb[1] : 0;
    if (!row || size % row || offset % row) {
        if (host) upstream.ggml_backend_tensor_set(tensor, data, offset, size);
        else write_device(tensor, data, offset, size);
        return;
    }
    if (tensor != last_tensor) next_row = 0;
    last_tensor = tensor;
    for (size_t at = 0; at < size; at += row, next_row++) {
        if (kept_rows && next_row < n_rows && !kept_rows[next_row]) continue;
        const char *from = (const char *)data + at;
        const struct copy of_host = {.to = (char *)tensor->data + offset + at, .from = from, .size = row};
        const struct copy of_device = {.from = from, .size = row, .tensor = tensor, .offset = offset + at};
        if (note(host ? of_host : of_device)) continue;
        if (host) upstream.ggml_backend_tensor_set(tensor, from, offset + at, row);
        else write_device(tensor, from, offset + at, row);
    }
}
