/* ggml_compute_forward_gated_delta_net: layers with a matrix as their state (Yang, Kautz and Hatamizadeh, "Gated Delta
 * Networks", 2024; with a gate for each number of a key, "Kimi Linear", 2025).
 *
 * A row j of a head's state S is independent of the other rows. For each token it is
 *     d = beta (v[j] - decay S[j] . k),  out[j] = scale (decay S[j] . q + d k . q),  S[j] = decay S[j] + d k.
 * Upstream goes through the whole state five times for each token. Here two rows stay in registers while they go
 * through a block of tokens. Tokens are computed one after the other, so results don't depend on how many there are. */
#include <math.h>

#include "recurrent/in_place.h"

#define BLOCK_TOKENS 16  /* of one head: what all rows need of them fits into the first-level cache */
#define MAX_SIZE     256 /* rows of a state, and numbers of a row */
#define N_ROWS       2
#define MIN_UNIT     16 /* rows, below which sharing a head between threads doesn't pay */

_Static_assert(GGML_MAX_SRC > 5, "query, key, value, gate, beta and state");

/* What the rows of a head need of a block of tokens. */
struct token_block {
    _Alignas(64) float key[BLOCK_TOKENS * MAX_SIZE];
    _Alignas(64) float decayed_key[BLOCK_TOKENS * MAX_SIZE];
    _Alignas(64) float decayed_query[BLOCK_TOKENS * MAX_SIZE];
    _Alignas(64) float decay[BLOCK_TOKENS * MAX_SIZE]; /* of each number of a key, or one for each token */
    float key_query[BLOCK_TOKENS], beta[BLOCK_TOKENS];
    const float *value[BLOCK_TOKENS];
    float *out[BLOCK_TOKENS];
    int n_tokens;
    float scale;
};

static _Thread_local struct token_block thread_block;

/* Rows j of the operation's states, of one head of one sequence. */
struct state_rows {
    const struct ggml_tensor *result;
    int64_t head, sequence;
    int first, end;
    const float *from; /* the head's whole state */
    float *to;
};

INLINE int64_t n_snapshots(const struct ggml_tensor *result) { return ggml_get_op_params_i32(result, 0); }

/* Prepare up to BLOCK_TOKENS tokens from `first` on. */
INLINE void load_tokens(struct token_block *b, int size, bool gates, const struct state_rows *rows, int64_t first,
                        int n_tokens) {
    const struct ggml_tensor *q = rows->result->src[0], *k = rows->result->src[1], *v = rows->result->src[2];
    const struct ggml_tensor *gate = rows->result->src[3], *beta = rows->result->src[4];
    const int64_t h = rows->head, s = rows->sequence, heads = v->ne[1];
    b->n_tokens = n_tokens;
    for (int t = 0; t < n_tokens; t++) {
        const int64_t token = first + t;
        const float *query = f32_at(q, h % q->ne[1], token, s / (v->ne[3] / q->ne[3]));
        const float *key = f32_at(k, h % k->ne[1], token, s / (v->ne[3] / k->ne[3]));
        const float *g = f32_at(gate, h, token, s);
        const vf one_decay = vf_set1(gates ? 0.0f : expf(*g));
        vf dot = vf_zero();
        for (int i = 0; i < size; i += VF_LANES) {
            const vf x = vf_loadu(key + i), y = vf_loadu(query + i);
            const vf decay = gates ? vf_exp(vf_loadu(g + i)) : one_decay;
            dot = vf_fma(x, y, dot);
            vf_store(b->key + t * size + i, x);
            vf_store(b->decayed_key + t * size + i, vf_mul(decay, x));
            vf_store(b->decayed_query + t * size + i, vf_mul(decay, y));
            if (gates || !i) vf_store(b->decay + t * size + i, decay);
        }
        b->key_query[t] = vf_reduce_add(dot);
        b->beta[t] = *f32_at(beta, h, token, s);
        b->value[t] = f32_at(v, h, token, s);
        b->out[t] = (float *)rows->result->data + ((s * v->ne[2] + token) * heads + h) * size;
    }
}

/* Two rows of the state from row j on, through a block of tokens. */
INLINE void update_rows(const struct token_block *b, int size, bool gates, int j, const float *from, float *to) {
    const int n = size / VF_LANES;
    vf a[MAX_SIZE / VF_LANES], c[MAX_SIZE / VF_LANES];
#pragma GCC unroll 32
    for (int i = 0; i < n; i++) {
        a[i] = vf_loadu(from + i * VF_LANES);
        c[i] = vf_loadu(from + size + i * VF_LANES);
    }
    for (int t = 0; t < b->n_tokens; t++) {
        const float *key = b->key + t * size, *decay = b->decay + t * size;
        const float *decayed_key = b->decayed_key + t * size, *decayed_query = b->decayed_query + t * size;
        /* Two sums of each product: one would wait for itself. */
        vf ak[2] = {vf_zero(), vf_zero()}, aq[2] = {vf_zero(), vf_zero()};
        vf ck[2] = {vf_zero(), vf_zero()}, cq[2] = {vf_zero(), vf_zero()};
#pragma GCC unroll 32
        for (int i = 0; i < n; i++) {
            const vf x = vf_load(decayed_key + i * VF_LANES), y = vf_load(decayed_query + i * VF_LANES);
            ak[i % 2] = vf_fma(a[i], x, ak[i % 2]);
            ck[i % 2] = vf_fma(c[i], x, ck[i % 2]);
            aq[i % 2] = vf_fma(a[i], y, aq[i % 2]);
            cq[i % 2] = vf_fma(c[i], y, cq[i % 2]);
        }
        float dots[4];
        vf_store_sums_x4(dots, vf_add(ak[0], ak[1]), vf_add(ck[0], ck[1]), vf_add(aq[0], aq[1]), vf_add(cq[0], cq[1]));
        float delta[N_ROWS];
        for (int r = 0; r < N_ROWS; r++) {
            delta[r] = (b->value[t][j + r] - dots[r]) * b->beta[t];
            b->out[t][j + r] = (dots[2 + r] + delta[r] * b->key_query[t]) * b->scale;
        }
        const vf da = vf_set1(delta[0]), dc = vf_set1(delta[1]), one_decay = vf_load(decay);
#pragma GCC unroll 32
        for (int i = 0; i < n; i++) {
            const vf x = vf_load(key + i * VF_LANES), e = gates ? vf_load(decay + i * VF_LANES) : one_decay;
            a[i] = vf_fma(da, x, vf_mul(e, a[i]));
            c[i] = vf_fma(dc, x, vf_mul(e, c[i]));
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < n; i++) {
        vf_storeu(to + i * VF_LANES, a[i]);
        vf_storeu(to + size + i * VF_LANES, c[i]);
    }
}

/* Copy what the rows are after token `token` into the snapshot for it, if there is one. Slot 0 is the last state, slot
 * s that of s tokens before. */
static void store_snapshot(const struct state_rows *rows, int64_t token) {
    const struct ggml_tensor *v = rows->result->src[2];
    const int64_t size = v->ne[0], slot = v->ne[2] - 1 - token, all = size * size * v->ne[1] * v->ne[3];
    if (slot < 1 || slot >= n_snapshots(rows->result)) return;
    memcpy(rows->to + slot * all + rows->first * size, rows->to + rows->first * size,
           (size_t)((rows->end - rows->first) * size) * sizeof(float));
}

INLINE void update_state(struct token_block *b, int size, bool gates, const struct state_rows *rows) {
    const int64_t n_tokens = rows->result->src[2]->ne[2];
    const int64_t first_stored = n_snapshots(rows->result) > 1 ? n_tokens - n_snapshots(rows->result) : n_tokens;
    const float *from = rows->from;
    for (int64_t token = 0; token < n_tokens; token += b->n_tokens) {
        int64_t count = n_tokens - token < BLOCK_TOKENS ? n_tokens - token : BLOCK_TOKENS;
        if (token < first_stored && token + count > first_stored) count = first_stored - token;
        load_tokens(b, size, gates, rows, token, token < first_stored ? (int)count : 1);
        for (int j = rows->first; j < rows->end; j += N_ROWS)
            update_rows(b, size, gates, j, from + j * size, rows->to + j * size);
        if (token >= first_stored) store_snapshot(rows, token);
        from = rows->to;
    }
}

#define UPDATE_STATE(SIZE)                                                                                             \
    OUT_OF_LINE void update_state_##SIZE(struct token_block *b, bool gates, const struct state_rows *rows) {           \
        if (gates) update_state(b, SIZE, true, rows);                                                                  \
        else update_state(b, SIZE, false, rows);                                                                       \
    }
UPDATE_STATE(16)
UPDATE_STATE(32)
UPDATE_STATE(64)
UPDATE_STATE(128)
UPDATE_STATE(256)

typedef void update_function(struct token_block *, bool gates, const struct state_rows *);

/* The function for states of so many rows; 0 where there is none. */
static update_function *update_function_of(int64_t size) {
    switch (size) {
        case 16: return update_state_16;
        case 32: return update_state_32;
        case 64: return update_state_64;
        case 128: return update_state_128;
        case 256: return update_state_256;
        default: return 0;
    }
}

static bool owns(const struct ggml_tensor *result) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2], *gate = result->src[3];
    const struct ggml_tensor *beta = result->src[4], *state = result->src[5];
    if (!has_f32_rows(q) || !has_f32_rows(k) || !has_f32_rows(v) || !has_f32_rows(gate)) return false;
    if (!has_f32_rows(beta) || !has_f32_rows(state) || !has_f32_rows(result)) return false;
    const int64_t size = v->ne[0], heads = v->ne[1], n_tokens = v->ne[2], sequences = v->ne[3];
    if (!update_function_of(size) || n_snapshots(result) < 1) return false;
    for (int i = 0; i < 2; i++) {
        const struct ggml_tensor *t = i ? k : q;
        if (t->ne[0] != size || t->ne[2] != n_tokens || t->ne[1] < 1 || t->ne[3] < 1) return false;
        if (heads % t->ne[1] || sequences % t->ne[3]) return false;
    }
    if ((gate->ne[0] != 1 && gate->ne[0] != size) || !has_shape(gate, gate->ne[0], heads, n_tokens, sequences))
        return false;
    if (!has_shape(beta, 1, heads, n_tokens, sequences) || !has_shape(state, size, size, heads, sequences))
        return false;
    if (!is_packed(state) || !is_packed(result)) return false;
    return n_numbers(result) == size * heads * sequences * (n_tokens + n_snapshots(result) * size);
}

bool delta_net_states(const struct ggml_tensor *result, struct state_operation *states) {
    if (!owns(result) || (n_snapshots(result) > 1 && result->src[2]->ne[2] > 1)) return false;
    const struct ggml_tensor *v = result->src[2], *state = result->src[5], *gather = state;
    while (gather->view_src) gather = gather->view_src;
    const struct ggml_tensor *rows = gather->src[0];
    const int64_t numbers = v->ne[0] * v->ne[0] * v->ne[1];
    if (gather->op != GGML_OP_GET_ROWS || state->data != gather->data || !has_f32_rows(rows)) return false;
    if (gather->ne[0] != numbers || n_numbers(gather) != numbers * v->ne[3]) return false;
    *states = (struct state_operation){
        .cache = rows,
        .gather = gather,
        .ids = gather->src[1],
        .sequences = v->ne[3],
        .state_numbers = numbers,
        .new_states = (const char *)result->data + (size_t)(v->ne[0] * v->ne[1] * v->ne[2] * v->ne[3]) * sizeof(float),
    };
    while (states->cache->view_src) states->cache = states->cache->view_src;
    return rows->data == states->cache->data && (int64_t)rows->nb[1] == numbers * (int64_t)sizeof(float) &&
           states->ids->nb[0] == sizeof(int32_t) && states->ids->ne[0] == v->ne[3];
}

static void compute(const struct ggml_compute_params *params, const struct ggml_tensor *result) {
    const struct ggml_tensor *v = result->src[2], *state = result->src[5];
    const int64_t size = v->ne[0], heads = v->ne[1], n_tokens = v->ne[2], sequences = v->ne[3];
    const bool gates = result->src[3]->ne[0] == size;
    update_function *update = update_function_of(size);
    struct token_block *b = TLS_PTR(thread_block);
    b->scale = 1.0f / sqrtf((float)size);
    /* A head is one unit, or several where there are more threads than heads. */
    int64_t unit_rows = size;
    while (unit_rows >= 2 * MIN_UNIT && unit_rows % (2 * N_ROWS) == 0 &&
           heads * sequences * (size / unit_rows) < 2 * params->nth)
        unit_rows /= 2;
    const int64_t parts = size / unit_rows;
    float *new_states = (float *)result->data + size * heads * n_tokens * sequences,
          *rows_there = rows_in_place(params, result);
    struct unit_queue queue = unit_queue(params, n_tokens);
    for (int64_t unit; (unit = take_unit(&queue)) < parts * heads * sequences;) {
        const int64_t head = unit / parts % heads, sequence = unit / parts / heads;
        const int64_t offset = (sequence * heads + head) * size * size;
        const int first = (int)(unit % parts * unit_rows);
        const struct state_rows rows = {
            .result = result,
            .head = head,
            .sequence = sequence,
            .first = first,
            .end = first + (int)unit_rows,
            .from = (rows_there ? rows_there : (const float *)state->data) + offset,
            .to = (rows_there ? rows_there : new_states) + offset,
        };
        update(b, gates, &rows);
    }
}

EXPORT void ggml_compute_forward_gated_delta_net(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    if (OWNS_OPERATION(gated_delta_net, owns(result), params, result)) compute(params, result);
}
