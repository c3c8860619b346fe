/* Computes one operation of the kernels in a process of its own: reads it from a file, and writes the result's bytes.
 *
 * The file has the name of the function in 64 bytes, the number of threads and of tensors (32 bits each), how many bytes
 * of weights may be repacked and how many tokens must be exact (64 bits each), and then of each tensor its place among
 * the operands (-1: the result), the size of its memory (64 bits each), the struct and the memory. Structs have the
 * layout of every 64-bit Linux; pointers in them are replaced. A tensor at the address of an earlier one shares its
 * memory. The address of a buffer is its usage, as in the proofs' stand-in for upstream.
 *
 * Behind the result's bytes the program writes the numbers of tokens and rows of the row maxima (64 bits each), and the
 * maxima. Without arguments it prints the table of formats, a row a line. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "loading/repack_layout.h"
#include "recurrent/operations.h"

void ggml_compute_forward_gated_delta_net(const struct ggml_compute_params *, struct ggml_tensor *);
bool ggml_cpu_extra_compute_forward(struct ggml_compute_params *, struct ggml_tensor *);
bool tailrace_kernels_set_upstream(const char *name, void *function);
bool tailrace_kernels_format(int index, int32_t row[9]);
int tailrace_kernels_cache_type(int index);
void tailrace_kernels_set_repack_budget(int model, int64_t bytes);
void tailrace_kernels_set_exact_tokens(int64_t n_tokens);
float *tailrace_kernels_take_row_maxima(int64_t *n_tokens, int64_t *n_rows);

typedef void operation(const struct ggml_compute_params *, struct ggml_tensor *);

/* The result keeps what it has where the kernels compute nothing. */
static void product(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    (void)ggml_compute_forward_mul_mat_tiled(params, result);
}
static void extra_operation(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    struct ggml_compute_params changeable = *params;
    (void)ggml_cpu_extra_compute_forward(&changeable, result);
}

static const struct {
    const char *name;
    operation *function;
} operations[] = {
    {"ggml_compute_forward_gated_delta_net", ggml_compute_forward_gated_delta_net},
    {"ggml_compute_forward_ssm_scan", ggml_compute_forward_ssm_scan},
    {"ggml_compute_forward_ssm_conv", ggml_compute_forward_ssm_conv},
    {"ggml_compute_forward_concat", ggml_compute_forward_concat},
    {"ggml_compute_forward_mul", ggml_compute_forward_mul},
    {"ggml_compute_forward_flash_attn_ext", ggml_compute_forward_flash_attn_ext},
    {"ggml_compute_forward_mul_mat_tiled", product},
    {"ggml_cpu_extra_compute_forward", extra_operation},
};

/* ---- What the kernels need of ggml's thread pool ----------------------------------------------------------------- */

static pthread_barrier_t barrier;
static atomic_int next_chunk;
static void wait_for_all(struct ggml_threadpool *pool) {
    (void)pool;
    pthread_barrier_wait(&barrier);
}
static void set_chunk(struct ggml_threadpool *pool, int value) {
    (void)pool;
    next_chunk = value;
}
static int add_chunk(struct ggml_threadpool *pool, int value) {
    (void)pool;
    return atomic_fetch_add(&next_chunk, value);
}

static enum ggml_backend_buffer_usage usage_of(ggml_backend_buffer_t buffer) {
    return (enum ggml_backend_buffer_usage)(intptr_t)buffer;
}

/* ---- The file ---------------------------------------------------------------------------------------------------- */

static void fail(const char *reason) {
    fprintf(stderr, "%s\n", reason);
    exit(1);
}

void ggml_abort(const char *file, int line, const char *format, ...) {
    (void)file, (void)line;
    fail(format);
    abort();
}

static void read_into(void *to, size_t bytes, FILE *file) {
    if (fread(to, 1, bytes, file) != bytes) fail("the file ends too early");
}

static struct ggml_tensor result;
static operation *function;
static int n_threads;
static char work[1 << 18] __attribute__((aligned(64)));

static void *compute(void *thread) {
    const struct ggml_compute_params params = {
        .ith = (int)(intptr_t)thread, .nth = n_threads, .wsize = sizeof work, .wdata = work};
    function(&params, &result);
    return 0;
}

static int print_formats(void) {
    int32_t row[9];
    for (int i = 0; tailrace_kernels_format(i, row); i++)
        for (int j = 0; j < 9; j++) printf("%d%c", row[j], j < 8 ? ' ' : '\n');
    return 0;
}

static void write_all(FILE *out, const void *from, size_t bytes) {
    if (fwrite(from, 1, bytes, out) != bytes) fail("the result can't be written");
}

int main(int argc, char **argv) {
    if (argc == 1) return print_formats();
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : 0;
    if (!file) fail("usage: operations OPERATION RESULT");
    char name[64];
    int32_t counts[2];
    int64_t settings[2];
    read_into(name, sizeof name, file);
    read_into(counts, sizeof counts, file);
    read_into(settings, sizeof settings, file);
    n_threads = counts[0];
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (!strcmp(operations[i].name, name)) function = operations[i].function;
    if (!function) fail("no such operation");
    struct ggml_tensor operands[GGML_MAX_SRC];
    const void *addresses[GGML_MAX_SRC + 1]; /* of tensors in the process that wrote the file */
    void *memories[GGML_MAX_SRC + 1];
    int64_t result_bytes = 0;
    for (int i = 0; i < counts[1]; i++) {
        int64_t header[2];
        read_into(header, sizeof header, file);
        if (header[0] >= GGML_MAX_SRC) fail("too many operands");
        struct ggml_tensor *t = header[0] < 0 ? &result : operands + header[0];
        read_into(t, sizeof *t, file);
        void *memory = 0;
        if (posix_memalign(&memory, 64, (size_t)header[1])) fail("no memory");
        read_into(memory, (size_t)header[1], file);
        addresses[i] = t->data;
        memories[i] = memory;
        for (int earlier = i - 1; earlier >= 0; earlier--)
            if (addresses[earlier] == addresses[i]) memories[i] = memories[earlier];
        t->data = memories[i];
        memset(t->src, 0, sizeof t->src);
        if (t == &result) result_bytes = header[1];
    }
    for (int i = 1; i < counts[1]; i++) result.src[i - 1] = operands + i - 1;
    tailrace_kernels_set_upstream("ggml_barrier", (void *)wait_for_all);
    tailrace_kernels_set_upstream("ggml_threadpool_chunk_set", (void *)set_chunk);
    tailrace_kernels_set_upstream("ggml_threadpool_chunk_add", (void *)add_chunk);
    tailrace_kernels_set_upstream("ggml_backend_buffer_get_usage", (void *)usage_of);
    tailrace_kernels_set_repack_budget(1, settings[0]);
    tailrace_kernels_set_exact_tokens(settings[1]);
    pthread_barrier_init(&barrier, 0, (unsigned)n_threads);
    pthread_t threads[16];
    if (n_threads < 1 || n_threads > 16) fail("1 to 16 threads");
    for (int i = 1; i < n_threads; i++) pthread_create(threads + i, 0, compute, (void *)(intptr_t)i);
    compute(0);
    for (int i = 1; i < n_threads; i++) pthread_join(threads[i], 0);
    FILE *out = fopen(argv[2], "wb");
    if (!out) fail("the result can't be written");
    write_all(out, result.data, (size_t)result_bytes);
    int64_t size[2];
    const float *maxima = tailrace_kernels_take_row_maxima(size, size + 1);
    if (maxima) {
        write_all(out, size, sizeof size);
        write_all(out, maxima, (size_t)(size[0] * ((size[1] + 255) / 256) * 16) * sizeof *maxima);
    }
    if (fclose(out)) fail("the result can't be written");
    return 0;
}
