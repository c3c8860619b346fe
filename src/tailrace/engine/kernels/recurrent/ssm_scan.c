/* ggml_compute_forward_ssm_scan: selective state spaces, as Mamba and Mamba-2 have them (Gu and Dao, "Mamba", 2023;
 * Dao and Gu, "Transformers are SSMs", 2024).
 *
 * A head's state has a row of `size` numbers for each of its channels. With dt = softplus of the head's step, a row is
 *     s = s exp(dt A) + B (dt x),  y = s . C
 * where A is one number for a head (Mamba-2), or one for each number of the row (Mamba, whose heads have one channel).
 * Rows stay in registers while they go through a block of tokens. Tokens are computed one after the other, so results
 * don't depend on how many there are. */
#include <math.h>

#include "recurrent/in_place.h"

#define BLOCK_TOKENS    16
#define N_ROWS          4                  /* that go through the tokens together */
#define ROW_VECTORS     (VF_REGISTERS / 8) /* of each of them, in registers */
#define MAX_MAMBA_SIZE  64
#define PREFETCHED_ROWS (4 * N_ROWS)

_Static_assert(GGML_MAX_SRC > 6, "states, x, dt, A, B, C and ids");
_Static_assert(VF_LANES % N_ROWS == 0, "channels of Mamba");

/* One operation: sizes, and where numbers lie. */
struct scan {
    const struct ggml_tensor *result, *states, *x, *dt, *a, *b, *c;
    const int32_t *ids; /* the row of `states` that each sequence begins with */
    int64_t size, channels, heads, groups, n_tokens, sequences, snapshots;
};

static struct scan scan_of(const struct ggml_tensor *result) {
    struct scan s = {.result = result};
    s.states = result->src[0], s.x = result->src[1], s.dt = result->src[2], s.a = result->src[3];
    s.b = result->src[4], s.c = result->src[5], s.ids = result->src[6]->data;
    s.size = s.states->ne[0], s.channels = s.x->ne[0], s.heads = s.x->ne[1], s.groups = s.b->ne[1];
    s.n_tokens = s.x->ne[2], s.sequences = s.x->ne[3];
    s.snapshots = ggml_get_op_params_i32(result, 0);
    return s;
}

/* Numbers of all heads' states of a sequence. */
INLINE int64_t state_numbers(const struct scan *s) { return s->size * s->channels * s->heads; }

static bool owns(const struct ggml_tensor *result) {
    for (int i = 0; i < 6; i++)
        if (!has_f32_rows(result->src[i])) return false;
    if (!has_f32_rows(result) || !result->src[6] || result->src[6]->type != GGML_TYPE_I32) return false;
    const struct scan s = scan_of(result);
    if (result->src[6]->ne[0] != s.sequences || result->src[6]->nb[0] != sizeof(int32_t)) return false;
    for (int64_t i = 0; i < s.sequences; i++)
        if (s.ids[i] < 0 || s.ids[i] >= s.states->ne[3]) return false;
    if (s.groups < 1 || s.heads % s.groups || s.snapshots < 1) return false;
    if (!has_shape(s.states, s.size, s.channels, s.heads, s.states->ne[3]) || !is_packed(s.states)) return false;
    if (!has_shape(s.dt, s.heads, s.n_tokens, s.sequences, 1) || !is_packed(result)) return false;
    if (!has_shape(s.b, s.size, s.groups, s.n_tokens, s.sequences)) return false;
    if (!has_shape(s.c, s.size, s.groups, s.n_tokens, s.sequences)) return false;
    const size_t row = sizeof(float) * (size_t)s.size;
    if ((s.groups > 1 && (s.b->nb[1] != row || s.c->nb[1] != row)) || s.x->nb[1] != sizeof(float) * (size_t)s.channels)
        return false;
    if (n_numbers(result) != n_numbers(s.x) + s.snapshots * s.sequences * state_numbers(&s)) return false;
    if (s.size % VF_LANES || !has_shape(s.a, s.a->ne[0], s.heads, 1, 1) || !is_packed(s.a)) return false;
    if (s.a->ne[0] == 1) return s.channels % N_ROWS == 0;
    /* Mamba: the heads of a vector share their B and C. */
    return s.a->ne[0] == s.size && s.snapshots == 1 && s.channels == 1 && s.heads / s.groups % VF_LANES == 0 &&
           (s.size == 16 || s.size == 32 || s.size == 64);
}

/* A head's state (with Mamba, that of VF_LANES heads) of one sequence. */
struct head_state {
    const struct scan *s;
    int64_t head, sequence;
    const float *from;
    float *to;
};

INLINE float *output_of(const struct head_state *h, int64_t token) {
    const struct scan *s = h->s;
    return (float *)s->result->data + ((h->sequence * s->n_tokens + token) * s->heads + h->head) * s->channels;
}

/* log(1 + e^x), which is x where e^x is large. */
INLINE float softplus(float x) { return x > 20.0f ? x : logf(1.0f + expf(x)); }
INLINE vf vf_softplus(vf x) {
    const vf bounded = vf_min(vf_set1(20.0f), x);
    const vf y = vf_log(vf_add(vf_set1(1.0f), vf_exp(bounded)));
    return vf_select(vf_le(x, vf_set1(20.0f)), y, x); /* NaN stays */
}

/* ---- Mamba-2 ----------------------------------------------------------------------------------------------------- */

/* What the rows of a head need of a block of tokens. */
struct token_block {
    float decay[BLOCK_TOKENS], step[BLOCK_TOKENS];
    const float *x[BLOCK_TOKENS], *b[BLOCK_TOKENS], *c[BLOCK_TOKENS];
    float *y[BLOCK_TOKENS];
    int n_tokens;
};

INLINE void load_tokens(struct token_block *block, const struct head_state *h, int64_t first, int n_tokens) {
    const struct scan *s = h->s;
    const int64_t group = h->head / (s->heads / s->groups);
    const float a = ((const float *)s->a->data)[h->head];
    block->n_tokens = n_tokens;
    for (int t = 0; t < n_tokens; t++) {
        const int64_t token = first + t;
        block->step[t] = softplus(f32_at(s->dt, token, h->sequence, 0)[h->head]);
        block->decay[t] = expf(block->step[t] * a);
        block->x[t] = f32_at(s->x, h->head, token, h->sequence);
        block->b[t] = f32_at(s->b, group, token, h->sequence);
        block->c[t] = f32_at(s->c, group, token, h->sequence);
        block->y[t] = output_of(h, token);
    }
}

/* So many vectors, from number `at` on, of N_ROWS rows from `row` on, through the block. Their parts of y are added to
 * `sums`, N_ROWS vectors for each token. */
INLINE void update_part(const struct token_block *block, int vectors, int64_t size, int64_t row, int64_t at,
                        const float *from, float *to, vf *sums) {
    vf state[N_ROWS][ROW_VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < N_ROWS; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) state[r][i] = vf_loadu(from + r * size + at + i * VF_LANES);
    for (int t = 0; t < block->n_tokens; t++) {
        const vf decay = vf_set1(block->decay[t]);
        vf input[N_ROWS], y[N_ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < N_ROWS; r++) {
            input[r] = vf_set1(block->x[t][row + r] * block->step[t]);
            y[r] = at ? sums[t * N_ROWS + r] : vf_zero();
        }
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) {
            const vf b = vf_loadu(block->b[t] + at + i * VF_LANES), c = vf_loadu(block->c[t] + at + i * VF_LANES);
#pragma GCC unroll 4
            for (int r = 0; r < N_ROWS; r++) {
                state[r][i] = vf_fma(b, input[r], vf_mul(state[r][i], decay));
                y[r] = vf_fma(state[r][i], c, y[r]);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < N_ROWS; r++) sums[t * N_ROWS + r] = y[r];
    }
#pragma GCC unroll 4
    for (int r = 0; r < N_ROWS; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) vf_storeu(to + r * size + at + i * VF_LANES, state[r][i]);
}

/* N_ROWS rows through the block. */
INLINE void update_rows(const struct token_block *block, int64_t size, int64_t row, const float *from, float *to) {
    vf sums[BLOCK_TOKENS * N_ROWS];
    int64_t at = 0;
    for (; at + ROW_VECTORS * VF_LANES <= size; at += ROW_VECTORS * VF_LANES)
        update_part(block, ROW_VECTORS, size, row, at, from, to, sums);
    for (; at < size; at += VF_LANES) update_part(block, 1, size, row, at, from, to, sums);
    for (int t = 0; t < block->n_tokens; t++) {
        const vf *y = sums + t * N_ROWS;
        vf_store_sums_x4(block->y[t] + row, y[0], y[1], y[2], y[3]);
    }
}

/* Copy the state after token `token` into the snapshot for it, if there is one. Slot 0 is the last state, slot s that of
 * s tokens before. */
static void store_snapshot(const struct head_state *h, int64_t token) {
    const struct scan *s = h->s;
    const int64_t slot = s->n_tokens - 1 - token;
    if (slot < 1 || slot >= s->snapshots) return;
    memcpy(h->to + slot * s->sequences * state_numbers(s), h->to, (size_t)(s->size * s->channels) * sizeof(float));
}

/* Rows lie side by side, but parts of several are read together, which the hardware doesn't follow. */
INLINE void prefetch_rows(const float *rows, int64_t size) {
    prefetch_l2((const uint8_t *)rows, N_ROWS * size * (int64_t)sizeof(float));
}

OUT_OF_LINE void update_mamba2(const struct head_state *h) {
    const struct scan *s = h->s;
    const int64_t first_stored = s->snapshots > 1 ? s->n_tokens - s->snapshots : s->n_tokens;
    struct token_block block;
    const float *from = h->from;
    for (int64_t token = 0; token < s->n_tokens; token += block.n_tokens) {
        int64_t count = s->n_tokens - token < BLOCK_TOKENS ? s->n_tokens - token : BLOCK_TOKENS;
        if (token < first_stored && token + count > first_stored) count = first_stored - token;
        load_tokens(&block, h, token, token < first_stored ? (int)count : 1);
        for (int64_t row = 0; row < s->channels; row += N_ROWS) {
            prefetch_rows(from + (row + PREFETCHED_ROWS) * s->size, s->size);
            prefetch_rows(h->to + (row + PREFETCHED_ROWS) * s->size, s->size);
            update_rows(&block, s->size, row, from + row * s->size, h->to + row * s->size);
        }
        if (token >= first_stored) store_snapshot(h, token);
        from = h->to;
    }
}

/* ---- Mamba ------------------------------------------------------------------------------------------------------- */

/* VF_LANES heads of one channel, whose rows are so many vectors, through all tokens. */
INLINE void update_mamba_of(const struct head_state *h, int vectors) {
    const struct scan *s = h->s;
    const int64_t group = h->head / (s->heads / s->groups), size = vectors * VF_LANES;
    const float *from = h->from;
    for (int64_t first = 0; first < s->n_tokens; first += BLOCK_TOKENS) {
        const int n_tokens = s->n_tokens - first < BLOCK_TOKENS ? (int)(s->n_tokens - first) : BLOCK_TOKENS;
        float step[BLOCK_TOKENS * VF_LANES], input[BLOCK_TOKENS * VF_LANES];
        for (int t = 0; t < n_tokens; t++) {
            const vf dt = vf_softplus(vf_loadu(f32_at(s->dt, first + t, h->sequence, 0) + h->head));
            vf_storeu(step + t * VF_LANES, dt);
            vf_storeu(input + t * VF_LANES, vf_mul(dt, vf_loadu(f32_at(s->x, h->head, first + t, h->sequence))));
        }
        for (int row = 0; row < VF_LANES; row += N_ROWS) {
            vf state[N_ROWS][MAX_MAMBA_SIZE / VF_LANES], a[N_ROWS][MAX_MAMBA_SIZE / VF_LANES];
#pragma GCC unroll 4
            for (int r = 0; r < N_ROWS; r++)
#pragma GCC unroll 4
                for (int i = 0; i < vectors; i++) {
                    const int64_t at = (row + r) * size + i * VF_LANES;
                    state[r][i] = vf_loadu(from + at);
                    a[r][i] = vf_loadu((const float *)s->a->data + h->head * size + at);
                }
            for (int t = 0; t < n_tokens; t++) {
                const float *b = f32_at(s->b, group, first + t, h->sequence);
                const float *c = f32_at(s->c, group, first + t, h->sequence);
                vf y[N_ROWS];
#pragma GCC unroll 4
                for (int r = 0; r < N_ROWS; r++) {
                    const vf dt = vf_set1(step[t * VF_LANES + row + r]), x = vf_set1(input[t * VF_LANES + row + r]);
                    y[r] = vf_zero();
#pragma GCC unroll 4
                    for (int i = 0; i < vectors; i++) {
                        const vf decayed = vf_mul(state[r][i], vf_exp(vf_mul(dt, a[r][i])));
                        state[r][i] = vf_fma(vf_loadu(b + i * VF_LANES), x, decayed);
                        y[r] = vf_fma(state[r][i], vf_loadu(c + i * VF_LANES), y[r]);
                    }
                }
                vf_store_sums_x4(output_of(h, first + t) + row, y[0], y[1], y[2], y[3]);
            }
#pragma GCC unroll 4
            for (int r = 0; r < N_ROWS; r++)
#pragma GCC unroll 4
                for (int i = 0; i < vectors; i++) vf_storeu(h->to + (row + r) * size + i * VF_LANES, state[r][i]);
        }
        from = h->to;
    }
}

OUT_OF_LINE void update_mamba(const struct head_state *h) {
    switch (h->s->size) {
        case 16: update_mamba_of(h, 16 / VF_LANES); break;
        case 32: update_mamba_of(h, 32 / VF_LANES); break;
        case 64: update_mamba_of(h, MAX_MAMBA_SIZE / VF_LANES); break;
    }
}

/* ---- The operation ----------------------------------------------------------------------------------------------- */

bool ssm_scan_states(const struct ggml_tensor *result, struct state_operation *states) {
    if (!owns(result)) return false;
    const struct scan s = scan_of(result);
    *states = (struct state_operation){
        .cache = s.states,
        .ids = result->src[6],
        .sequences = s.sequences,
        .state_numbers = state_numbers(&s),
        .new_states = (const char *)result->data + (size_t)n_numbers(s.x) * sizeof(float),
    };
    while (states->cache->view_src) states->cache = states->cache->view_src;
    return (s.snapshots == 1 || s.n_tokens == 1) && s.states->data == states->cache->data;
}

static void compute(const struct ggml_compute_params *params, const struct ggml_tensor *result) {
    const struct scan s = scan_of(result);
    const bool mamba2 = s.a->ne[0] == 1;
    const int64_t unit_heads = mamba2 ? 1 : VF_LANES, units = s.heads / unit_heads;
    float *states = (float *)result->data + n_numbers(s.x), *rows_there = rows_in_place(params, result);
    struct unit_queue queue = unit_queue(params, s.n_tokens);
    for (int64_t unit; (unit = take_unit(&queue)) < units * s.sequences;) {
        struct head_state h = {.s = &s, .head = unit % units * unit_heads, .sequence = unit / units};
        const int64_t offset = h.head * s.channels * s.size;
        h.from = (const float *)s.states->data + s.ids[h.sequence] * state_numbers(&s) + offset;
        h.to = (rows_there ? rows_there : states) + h.sequence * state_numbers(&s) + offset;
        if (mamba2) update_mamba2(&h);
        else update_mamba(&h);
    }
}

EXPORT void ggml_compute_forward_ssm_scan(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    if (OWNS_OPERATION(ssm_scan, owns(result), params, result)) compute(params, result);
}
