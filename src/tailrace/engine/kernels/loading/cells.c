/* The KV cache's tensors, and touching their memory before a step needs it: ggml_backend_alloc_ctx_tensors_from_buft.
 *
 * A large KV cache has all its addresses from the start, and memory where it has cells (memory.c). The first touch of a
 * huge page takes milliseconds in a virtual machine, and the tensors of all layers come to their next pages in the same
 * step. So pages are populated ahead of the cells, a few in each step.
 *
 * Tensors on devices are recorded, too, so that copies of their cells can be made later (copies.c). Their addresses mean
 * nothing here, and nothing is populated there. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "loading/cells.h"
#include "loading/ggml_api.h"

#define HUGE_PAGE   ((uintptr_t)2 << 20)
#define SMALL_PAGE  ((uintptr_t)4096)
#define MAX_TENSORS 4096

static struct cell_tensor {
    char *begin;                      /* 0: on a device */
    const struct ggml_tensor *tensor; /* of a device alone */
    int owner;                        /* the number of the KV cache */
    size_t size, cell_size;
    size_t populated; /* bytes from the beginning */
} tensors[MAX_TENSORS];
static int n_tensors;
static int64_t recorded_cells, recorded_partitions; /* tensors of so many cells in each partition are recorded */
static int recorded_owner;

/* Forget the tensors of KV cache `owner`. Until the next call, record those of `n_partitions` times `n_cells` cells as its
 * own; 0 cells: none. */
EXPORT void tailrace_kernels_record_cells(int owner, int64_t n_cells, int64_t n_partitions) {
    int kept = 0;
    for (int i = 0; i < n_tensors; i++)
        if (tensors[i].owner != owner) tensors[kept++] = tensors[i];
    n_tensors = kept;
    recorded_owner = owner;
    recorded_cells = n_cells;
    recorded_partitions = n_partitions;
}

/* Record no further tensors. */
EXPORT void tailrace_kernels_end_record(void) { recorded_cells = 0; }

bool is_of_cells(int owner, const char *begin, size_t size) {
    for (int i = 0; i < n_tensors; i++) {
        const struct cell_tensor *t = &tensors[i];
        if (t->owner == owner && t->begin && begin >= t->begin && begin + size <= t->begin + t->size) return true;
    }
    return false;
}

bool is_on_device(int owner, const struct ggml_tensor *tensor) {
    const struct ggml_tensor *whole = tensor->view_src ? tensor->view_src : tensor;
    for (int i = 0; i < n_tensors; i++)
        if (tensors[i].owner == owner && tensors[i].tensor == whole) return true;
    return false;
}

static void record(struct ggml_context *context, bool is_host) {
    if (!upstream.ggml_get_first_tensor || !upstream.ggml_get_next_tensor) return;
    for (struct ggml_tensor *t = upstream.ggml_get_first_tensor(context); t;
         t = upstream.ggml_get_next_tensor(context, t)) {
        const bool of_cells =
            !t->view_src && t->data && t->ne[1] == recorded_cells && t->ne[2] == recorded_partitions && t->ne[3] == 1;
        if (!of_cells || n_tensors == MAX_TENSORS) continue;
        tensors[n_tensors++] = (struct cell_tensor){.begin = is_host ? t->data : 0,
                                                    .tensor = is_host ? 0 : t,
                                                    .owner = recorded_owner,
                                                    .size = t->nb[2] * (size_t)t->ne[2],
                                                    .cell_size = t->nb[1]};
    }
}

EXPORT struct ggml_backend_buffer *ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *context,
                                                                            ggml_backend_buffer_type_t type) {
    if (!upstream.ggml_backend_alloc_ctx_tensors_from_buft) return 0;
    struct ggml_backend_buffer *buffer = upstream.ggml_backend_alloc_ctx_tensors_from_buft(context, type);
    if (buffer && recorded_cells && upstream.ggml_backend_buffer_is_host)
        record(context, upstream.ggml_backend_buffer_is_host(buffer));
    return buffer;
}

/* Populate up to `end` of the tensor; a kernel that refuses (before 5.14) leaves the pages to their first use. */
static size_t populate(struct cell_tensor *t, uintptr_t end) {
    const uintptr_t from = ((uintptr_t)t->begin + t->populated) / SMALL_PAGE * SMALL_PAGE;
#ifdef MADV_POPULATE_WRITE
    madvise((void *)from, end - from, MADV_POPULATE_WRITE);
#endif
    t->populated = end - (uintptr_t)t->begin;
    return end - from;
}

/* The end of the next huge page to populate, and at most `last`. */
static uintptr_t next_end(const struct cell_tensor *t, uintptr_t last) {
    const uintptr_t end = ((uintptr_t)t->begin + t->populated + HUGE_PAGE) / HUGE_PAGE * HUGE_PAGE;
    return end < last ? end : last;
}

/* Have memory for the first `n_cells` cells of KV cache `owner`: populate what is missing, huge page by huge page, until
 * that is `max_bytes` or more. `begun`: also the huge page in which they end. Returns the bytes; 0: nothing is missing.
 * Not to be called while a step is computed. */
EXPORT int64_t tailrace_kernels_populate_cells(int owner, int64_t n_cells, int64_t max_bytes, bool begun) {
    size_t done = 0;
    for (int i = 0; i < n_tensors; i++) {
        struct cell_tensor *t = &tensors[i];
        if (t->owner != owner || !t->begin) continue;
        const uintptr_t begin = (uintptr_t)t->begin, last = begin + t->size;
        const size_t all = (size_t)n_cells * t->cell_size, wanted = all < t->size ? all : t->size;
        while (t->populated < wanted) {
            const uintptr_t end = next_end(t, last);
            if (!begun && end > begin + wanted) break;
            if (done >= (size_t)max_bytes) return (int64_t)done;
            done += populate(t, end);
        }
    }
    return (int64_t)done;
}
