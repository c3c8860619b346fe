/* Copies of recurrent states and sliding windows within a device's memory.
 *
 * The next step changes them, so a state's bytes have to be read before it, and reading from a worker takes a round trip
 * for each tensor. Instead the device copies all of them to a buffer of its own: one graph, for which nothing has to be
 * waited. The buffer is read later, between steps. */
#include <pthread.h>
#include <stdlib.h>

#include "loading/ggml_api.h"
#include "loading/snapshots.h"

#define ALIGNMENT ((size_t)64)

struct snapshot {
    ggml_backend_buffer_type_t type;
    struct ggml_context *context;
    struct ggml_backend_buffer *buffer;
    struct ggml_tensor *bytes; /* all of the buffer */
    struct snapshot *next;
};

/* Buffers that no copy needs any more. They are used again: where any buffer of a worker is freed, its RPC server forgets
 * the graph that the next step has it compute again. */
static struct snapshot *unused;
static pthread_mutex_t unused_lock = PTHREAD_MUTEX_INITIALIZER;

static bool is_possible(void) {
    return upstream.ggml_init && upstream.ggml_free && upstream.ggml_tensor_overhead &&
           upstream.ggml_graph_overhead_custom && upstream.ggml_new_tensor_1d && upstream.ggml_cpy &&
           upstream.ggml_new_graph_custom && upstream.ggml_build_forward_expand &&
           upstream.ggml_backend_buffer_get_type && upstream.ggml_backend_buffer_free &&
           upstream.ggml_backend_buft_get_device && upstream.ggml_backend_dev_init &&
           upstream.ggml_backend_graph_compute && upstream.ggml_backend_free &&
           upstream.ggml_backend_alloc_ctx_tensors_from_buft;
}

static struct ggml_backend_buffer *buffer_of(const struct ggml_tensor *tensor) {
    return tensor->view_src ? tensor->view_src->buffer : tensor->buffer;
}

static ggml_backend_buffer_type_t type_of(const struct copy *copy) {
    return upstream.ggml_backend_buffer_get_type(buffer_of(copy->tensor));
}

static bool belongs(const struct copy *copy, ggml_backend_buffer_type_t type) {
    return copy->is_fleeting && copy->size % sizeof(float) == 0 && type_of(copy) == type;
}

/* The bytes at `data` as floats: a copy of floats changes no bit. */
static struct ggml_tensor *floats(struct ggml_context *context, struct ggml_backend_buffer *buffer, void *data,
                                  size_t size) {
    struct ggml_tensor *tensor = upstream.ggml_new_tensor_1d(context, GGML_TYPE_F32, (int64_t)(size / sizeof(float)));
    tensor->buffer = buffer;
    tensor->data = data;
    return tensor;
}

static void free_one(struct snapshot *snapshot) {
    if (snapshot->buffer) upstream.ggml_backend_buffer_free(snapshot->buffer);
    if (snapshot->context) upstream.ggml_free(snapshot->context);
    free(snapshot);
}

/* A buffer of `size` bytes or more, used before or new; 0 where there is no memory. */
static struct snapshot *find_buffer(ggml_backend_buffer_type_t type, size_t size) {
    struct snapshot *found = 0;
    pthread_mutex_lock(&unused_lock);
    for (struct snapshot **at = &unused; *at; at = &(*at)->next)
        if ((*at)->type == type && (size_t)(*at)->bytes->ne[0] * sizeof(float) >= size) {
            found = *at;
            *at = found->next;
            break;
        }
    pthread_mutex_unlock(&unused_lock);
    if (found) return found;
    found = calloc(1, sizeof *found);
    if (!found) return 0;
    found->type = type;
    const struct ggml_init_params params = {.mem_size = 2 * upstream.ggml_tensor_overhead(), .no_alloc = true};
    found->context = upstream.ggml_init(params);
    if (found->context) {
        found->bytes = upstream.ggml_new_tensor_1d(found->context, GGML_TYPE_F32, (int64_t)(size / sizeof(float)));
        found->buffer = upstream.ggml_backend_alloc_ctx_tensors_from_buft(found->context, type);
    }
    if (found->buffer) return found;
    free_one(found);
    return 0;
}

static size_t aligned(size_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* Have the device copy to `target` what the members among `copies` read. */
static bool compute(ggml_backend_dev_t device, const struct snapshot *target, const struct copy *copies, int64_t count,
                    size_t members) {
    /* A graph's size is that of its leaves, too: both sides of each copy. */
    const size_t size =
        3 * members * upstream.ggml_tensor_overhead() + upstream.ggml_graph_overhead_custom(2 * members, false) + 4096;
    struct ggml_context *context = upstream.ggml_init((struct ggml_init_params){.mem_size = size, .no_alloc = true});
    ggml_backend_t backend = context ? upstream.ggml_backend_dev_init(device, 0) : 0;
    bool done = false;
    if (backend) {
        struct ggml_cgraph *graph = upstream.ggml_new_graph_custom(context, 2 * members, false);
        size_t at = 0;
        for (int64_t i = 0; i < count; i++) {
            const struct copy *copy = &copies[i];
            if (!belongs(copy, target->type)) continue;
            struct ggml_tensor *from =
                floats(context, buffer_of(copy->tensor), (char *)copy->tensor->data + copy->offset, copy->size);
            struct ggml_tensor *to = floats(context, target->buffer, (char *)target->bytes->data + at, copy->size);
            struct ggml_tensor *node = upstream.ggml_cpy(context, from, to);
            node->buffer = target->buffer;
            upstream.ggml_build_forward_expand(graph, node);
            at += aligned(copy->size);
        }
        done = upstream.ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS;
        upstream.ggml_backend_free(backend);
    }
    if (context) upstream.ggml_free(context);
    return done;
}

/* One device's. 0 where it fails: the copies are as before. */
static struct snapshot *take_one(struct copy *copies, int64_t count, ggml_backend_buffer_type_t type) {
    size_t total = 0, members = 0;
    for (int64_t i = 0; i < count; i++)
        if (belongs(&copies[i], type)) {
            total += aligned(copies[i].size);
            members++;
        }
    ggml_backend_dev_t device = upstream.ggml_backend_buft_get_device(type);
    struct snapshot *snapshot = device ? find_buffer(type, total) : 0;
    if (!snapshot) return 0;
    if (!compute(device, snapshot, copies, count, members)) {
        free_one(snapshot);
        return 0;
    }
    size_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        struct copy *copy = &copies[i];
        if (!belongs(copy, type)) continue;
        copy->tensor = snapshot->bytes;
        copy->offset = at;
        copy->is_fleeting = false;
        at += aligned(copy->size);
    }
    return snapshot;
}

struct snapshot *take_snapshots(struct copy *copies, int64_t count) {
    struct snapshot *found = 0;
    if (!is_possible()) return 0;
    for (int64_t i = 0; i < count; i++) {
        if (!copies[i].is_fleeting || copies[i].size % sizeof(float)) continue;
        struct snapshot *one = take_one(copies, count, type_of(&copies[i]));
        if (!one) break;
        one->next = found;
        found = one;
    }
    return found;
}

void release_snapshots(struct snapshot *snapshots) {
    pthread_mutex_lock(&unused_lock);
    while (snapshots) {
        struct snapshot *next = snapshots->next;
        snapshots->next = unused;
        unused = snapshots;
        snapshots = next;
    }
    pthread_mutex_unlock(&unused_lock);
}

/* Free the buffers that no copy needs: a context is about to be freed. */
EXPORT void tailrace_kernels_free_snapshots(void) {
    pthread_mutex_lock(&unused_lock);
    while (unused) {
        struct snapshot *next = unused->next;
        free_one(unused);
        unused = next;
    }
    pthread_mutex_unlock(&unused_lock);
}
