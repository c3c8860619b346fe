/* Which tokens each expert of an operation computes. A pair is one token at one of its experts.
 *
 * Pairs are grouped by expert, so the weights of each expert are read once. Each thread groups them for itself: it takes
 * less time than waiting for another one. */
#pragma once
#include "loading/ggml_api.h"

struct pair {
    int32_t used, token; /* the token's expert number `used`, as the ids have it */
};

struct routing {
    int64_t n_chosen;   /* experts that have a pair */
    int32_t *chosen;    /* these experts, in rising order */
    int32_t *begins;    /* n_experts + 1: the first place of each expert's pairs */
    struct pair *pairs; /* by place: grouped by expert, and by token within it */
};

/* Bytes of a thread's memory for the routing of so many experts and pairs. */
INLINE size_t routing_bytes(int64_t n_experts, int64_t n_pairs) {
    return (sizeof(struct pair) * (size_t)n_pairs + sizeof(int32_t) * (size_t)(2 * n_experts + 1) + 63) / 64 * 64;
}

/* The expert of a pair as the ids name it. */
INLINE int32_t expert_of(const struct ggml_tensor *ids, int64_t used, int64_t token) {
    int32_t expert;
    memcpy(&expert, (const char *)ids->data + used * (int64_t)ids->nb[0] + token * (int64_t)ids->nb[1], sizeof expert);
    return expert;
}

/* Group the pairs of `ids` in `memory`. Pairs whose expert doesn't exist are left out. */
struct routing group_pairs(const struct ggml_tensor *ids, int64_t n_experts, void *memory);
