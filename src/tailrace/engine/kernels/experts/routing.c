/* Pairs by expert: see routing.h. */
#include "experts/routing.h"

struct routing group_pairs(const struct ggml_tensor *ids, int64_t n_experts, void *memory) {
    const int64_t n_used = ids->ne[0], n_tokens = ids->ne[1];
    struct routing routing = {.pairs = memory};
    routing.begins = (int32_t *)(routing.pairs + n_used * n_tokens);
    routing.chosen = routing.begins + n_experts + 1;
    memset(routing.begins, 0, sizeof(int32_t) * (size_t)(n_experts + 1));
    for (int64_t token = 0; token < n_tokens; token++)
        for (int64_t used = 0; used < n_used; used++) {
            const int32_t expert = expert_of(ids, used, token);
            if (expert >= 0 && expert < n_experts) routing.begins[expert]++;
        }
    int32_t end = 0;
    for (int64_t expert = 0; expert < n_experts; expert++) {
        if (routing.begins[expert]) routing.chosen[routing.n_chosen++] = (int32_t)expert;
        routing.begins[expert] = end += routing.begins[expert];
    }
    routing.begins[n_experts] = end;
    /* From the last pair on, so each begin, which is the end now, comes down to the first place. */
    for (int64_t token = n_tokens; token-- > 0;)
        for (int64_t used = n_used; used-- > 0;) {
            const int32_t expert = expert_of(ids, used, token);
            if (expert >= 0 && expert < n_experts)
                routing.pairs[--routing.begins[expert]] = (struct pair){(int32_t)used, (int32_t)token};
        }
    return routing;
}
