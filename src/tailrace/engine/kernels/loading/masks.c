/* Masks as runs of cells: see masks.h.
 *
 * The runs are 32-bit numbers: for each row of the mask how many there are, and then the first cell and the length of
 * each. They go into the mask's own tensor, under another name, and take at most half of its bytes. */
#include "loading/masks.h"

#include <stdio.h>
#include <stdlib.h>

#include "graph/inputs.h"
#include "loading/served_weights.h"

#define MASK_NAME   "attn_inp_kq_mask" /* llama.cpp's */
#define RUNS_NAME   "tailrace mask runs"
#define HIDDEN      ((uint16_t)0xfc00) /* minus infinity */
#define FOUR_HIDDEN 0xfc00fc00fc00fc00u
#define MIN_BYTES   1024
#define MAX_WORKERS 16

/* The workers that write masks from runs: `HOST:PORT` each. They change while nothing is computed. */
static char workers[MAX_WORKERS][GGML_MAX_NAME];

static long n_sent;
EXPORT long tailrace_kernels_mask_runs_sent(void) { return n_sent; }

/* Send the worker at `endpoint` runs from now on, or no longer. Nothing happens where there are too many. */
EXPORT void tailrace_kernels_send_mask_runs(const char *endpoint, bool on) {
    for (int i = 0; i < MAX_WORKERS; i++)
        if (!strcmp(workers[i], endpoint)) *workers[i] = 0;
    for (int i = 0; on && i < MAX_WORKERS; i++)
        if (!*workers[i]) {
            snprintf(workers[i], sizeof workers[i], "%s", endpoint);
            return;
        }
}

/* Whether a tensor is the copy of a mask for one of these workers: `RPC0[HOST:PORT]#attn_inp_kq_mask#0`. */
static bool is_copy_for_worker(const char *name) {
    const char *begin = strchr(name, '['), *end = strstr(name, "]#" MASK_NAME);
    if (!begin || !end) return false;
    const size_t length = (size_t)(end - ++begin);
    for (int i = 0; i < MAX_WORKERS; i++)
        if (*workers[i] && strlen(workers[i]) == length && !strncmp(workers[i], begin, length)) return true;
    return false;
}

static _Thread_local struct {
    uint32_t *words;
    size_t capacity;
} runs;

static bool is_mask(const struct ggml_tensor *t) {
    return t->type == GGML_TYPE_F16 && t->nb[0] == sizeof(uint16_t) && t->nb[1] == (size_t)t->ne[0] * t->nb[0] &&
           t->nb[2] == (size_t)t->ne[1] * t->nb[1] && t->nb[3] == (size_t)t->ne[2] * t->nb[2];
}

/* The first cell from `cell` on that isn't `value`, of which `four` are four. */
INLINE int64_t end_of_run(const uint16_t *row, int64_t cell, int64_t n_cells, uint16_t value, uint64_t four) {
    for (; cell + 4 <= n_cells; cell += 4) {
        uint64_t word;
        memcpy(&word, row + cell, sizeof word);
        if (word != four) break;
    }
    while (cell < n_cells && row[cell] == value) cell++;
    return cell;
}

/* The runs of all rows, as `n` numbers. False where there are more than `max`, or another number than 0 is visible. */
static bool find_runs(const uint16_t *mask, int64_t n_rows, int64_t n_cells, size_t max, size_t *n) {
    size_t at = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        const uint16_t *row = mask + r * n_cells;
        if (at >= max) return false;
        uint32_t *count = runs.words + at++;
        *count = 0;
        for (int64_t cell = 0;;) {
            const int64_t begin = end_of_run(row, cell, n_cells, HIDDEN, FOUR_HIDDEN);
            if (begin == n_cells) break;
            cell = end_of_run(row, begin, n_cells, 0, 0);
            if (cell == begin || at + 2 > max) return false;
            runs.words[at++] = (uint32_t)begin;
            runs.words[at++] = (uint32_t)(cell - begin);
            ++*count;
        }
    }
    *n = at;
    return true;
}

bool send_mask_runs(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size) {
    if (offset || size < MIN_BYTES || !is_copy_for_worker(tensor->name) || !is_mask(tensor)) return false;
    const int64_t n_cells = tensor->ne[0], n_rows = tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
    const size_t max = size / 2 / sizeof *runs.words;
    size_t n;
    if (size != (size_t)(n_rows * n_cells) * sizeof(uint16_t)) return false;
    if (max > runs.capacity) {
        uint32_t *grown = realloc(runs.words, max * sizeof *grown);
        if (!grown) return false;
        runs.words = grown, runs.capacity = max;
    }
    if (!find_runs(data, n_rows, n_cells, max, &n)) return false;
    struct ggml_tensor named = *tensor;
    snprintf(named.name, sizeof named.name, "%s", RUNS_NAME);
    if (!send_input(tensor, &named, runs.words, 0, n * sizeof *runs.words))
        upstream.ggml_backend_tensor_set(&named, runs.words, 0, n * sizeof *runs.words);
    n_sent++;
    return true;
}

/* ---- The worker's side ------------------------------------------------------------------------------------------- */

/* False where the numbers are no runs of such a mask. */
static bool write_mask(uint16_t *mask, int64_t n_rows, int64_t n_cells, const uint32_t *words, size_t n) {
    size_t at = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        uint16_t *row = mask + r * n_cells;
        for (int64_t cell = 0; cell < n_cells; cell++) row[cell] = HIDDEN;
        if (at >= n) return false;
        const uint32_t count = words[at++];
        for (uint32_t i = 0; i < count; i++, at += 2) {
            if (n - at < 2 || words[at] > n_cells || words[at + 1] > n_cells - words[at]) return false;
            memset(row + words[at], 0, words[at + 1] * sizeof *row);
        }
    }
    return at == n;
}

bool receive_mask_runs(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size) {
    if (!serves_weights() || strcmp(tensor->name, RUNS_NAME)) return false;
    const int64_t n_rows = tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
    const size_t bytes = (size_t)(n_rows * tensor->ne[0]) * sizeof(uint16_t);
    uint16_t *mask = malloc(bytes);
    uint32_t *words = malloc(size);
    if (words && data) memcpy(words, data, size); /* A message's bytes may lie anywhere. */
    if (!mask || !words || offset || size % sizeof *words || !is_mask(tensor) ||
        !write_mask(mask, n_rows, tensor->ne[0], words, size / sizeof *words)) {
        fprintf(stderr, "tailrace: a client has sent a mask that is none\n");
        abort();
    }
    upstream.ggml_backend_tensor_set(tensor, mask, 0, bytes);
    free(words);
    free(mask);
    return true;
}
