/* Experts in AMX tiles: see expert_tiles.h.
 *
 * An expert's tokens are packed into tiles group by group. A panel is 32 rows of each matrix by all of these tokens; the
 * results of both are gated while they are in the cache. */
#include "experts/expert_tiles.h"

#include "products/panels_amx.h"
#include "products/prefill_amx.h"
#include "experts/product_by_expert.h"

#if HAS_AMX
/* Tokens of an expert from which tiles are faster than bytes. */
#define MIN_EXPERT_TOKENS 32
#define MAX_PASS_TOKENS   512 /* by which a converted panel is multiplied at once */

/* Memory of a thread: results of up to two matrices, and the sums of a panel between the parts of its rows. */
enum { PASS_SUMS = MAX_PASS_TOKENS * TILE_PANEL, THREAD_BYTES = 3 * PASS_SUMS * (int)sizeof(float) };

/* Where an expert's groups of 16 tokens begin, among those of all experts. Experts in tiles that come before it have
 * at least MIN_EXPERT_TOKENS pairs each, and the last group of each may have fewer than 16. */
INLINE int64_t first_group(int64_t place) { return place / TILE_SIDE + place / MIN_EXPERT_TOKENS; }

size_t expert_tile_bytes(int n_threads, const struct ggml_tensor *result) {
    const struct ggml_tensor *ids = result->src[2];
    if (ids->ne[1] < MIN_PROMPT_TOKENS || !tailrace_kernels_amx_usable()) return 0;
    return (size_t)(first_group(n_pairs_of(ids)) * (result->src[0]->ne[0] / 32) * TILE_BYTES +
                    n_threads * (int64_t)THREAD_BYTES);
}

struct expert_tiles expert_tiles_in(uint8_t *memory, size_t bytes, int thread, int n_threads) {
    if (!bytes) return (struct expert_tiles){0};
    return (struct expert_tiles){memory, memory + bytes - (size_t)(n_threads - thread) * THREAD_BYTES};
}

INLINE int64_t n_pairs_at(const struct product *p, int64_t expert) {
    return p->routing.begins[expert + 1] - p->routing.begins[expert];
}

bool is_in_tiles(const struct product *p, int64_t expert) {
    return p->tiles.activations && n_pairs_at(p, expert) >= MIN_EXPERT_TOKENS;
}

INLINE int64_t n_tile_blocks(const struct product *p) { return p->op->activations->ne[0] / 32; }

INLINE uint8_t *tiles_of(const struct product *p, int64_t expert) {
    return p->tiles.activations + first_group(p->routing.begins[expert]) * n_tile_blocks(p) * TILE_BYTES;
}

void pack_pair(const struct product *p, int64_t expert, int64_t place, const float *x) {
    const int64_t n_pairs = n_pairs_at(p, expert), n_groups = n_token_groups(n_pairs), n_blocks = n_tile_blocks(p);
    const int64_t token = place - p->routing.begins[expert];
    uint8_t *tiles = tiles_of(p, expert);
    pack_token(x, token, n_groups, n_blocks, tiles);
    if (token + 1 < n_pairs) return;
    for (int64_t none = n_pairs; none < n_groups * TILE_SIDE; none++) pack_token(0, none, n_groups, n_blocks, tiles);
}

/* Rows of a panel from panel `begin` of 16 rows on, by the pairs `first` to `last` of an expert. */
static void compute_panel(const struct product *p, struct tile_product *product, int64_t expert, int64_t begin,
                          int64_t n_rows, int64_t first, int64_t last) {
    const struct expert_op *op = p->op;
    float *sums = (float *)p->tiles.sums, *results[2] = {sums + PASS_SUMS, sums + 2 * PASS_SUMS};
    for (int m = 0; m < op->n_matrices; m++) {
        const struct expert_matrix *matrix = op->matrices + m;
        const int64_t row = expert * matrix->expert_rows + matrix->first_row + begin * GROUP_ROWS;
        product->weights = matrix->repacked;
        for (int64_t part = 0; part < product->n_parts; part++)
            multiply_tile_panel(product, row, n_rows, part, first, last, results[m], n_rows, sums);
        if (matrix->bias) add_bias(matrix, expert, begin * GROUP_ROWS, n_rows, last - first, results[m]);
    }
    if (op->gate != NO_GATE) apply_gate(op, (last - first) * n_rows, results[0], results[1]);
    store_results(p, p->routing.begins[expert] + first, last - first, begin * GROUP_ROWS, n_rows, results[0]);
}

void compute_tile_chunk(const struct product *p, const struct chunk *chunk, const uint8_t *following) {
    const int64_t n_pairs = n_pairs_at(p, chunk->expert), n_blocks = n_tile_blocks(p);
    struct tile_product product = {.activations = tiles_of(p, chunk->expert),
                                   .memory = thread_tile_memory(),
                                   .n_tokens = n_pairs,
                                   .n_groups = n_token_groups(n_pairs),
                                   .n_blocks = n_blocks,
                                   .n_parts = n_row_parts(n_blocks)};
    const struct tile_config before = tiles_begin();
    for (int64_t begin = chunk->begin; begin < chunk->end; begin += 2) {
        const int64_t n_panels = chunk->end - begin < 2 ? 1 : 2;
        for (int m = 0; m < p->op->n_matrices && begin + 2 < chunk->end; m++)
            prefetch_l2(panel_at(p, m, chunk->expert, begin + 2), 2 * p->panel_bytes);
        if (begin + 2 >= chunk->end && following) prefetch_l2(following, 2 * p->panel_bytes);
        for (int64_t first = 0; first < n_pairs; first += MAX_PASS_TOKENS)
            compute_panel(p, &product, chunk->expert, begin, n_panels * GROUP_ROWS, first,
                          n_pairs - first < MAX_PASS_TOKENS ? n_pairs : first + MAX_PASS_TOKENS);
    }
    tiles_end(before);
}
#else
size_t expert_tile_bytes(int n_threads, const struct ggml_tensor *result) {
    (void)n_threads, (void)result;
    return 0;
}
struct expert_tiles expert_tiles_in(uint8_t *memory, size_t bytes, int thread, int n_threads) {
    (void)memory, (void)bytes, (void)thread, (void)n_threads;
    return (struct expert_tiles){0};
}
bool is_in_tiles(const struct product *p, int64_t expert) {
    (void)p, (void)expert;
    return false;
}
void pack_pair(const struct product *p, int64_t expert, int64_t place, const float *x) {
    (void)p, (void)expert, (void)place, (void)x;
}
void compute_tile_chunk(const struct product *p, const struct chunk *chunk, const uint8_t *following) {
    (void)p, (void)chunk, (void)following;
}
#endif
