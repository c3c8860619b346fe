/* States that are updated where the cache has them. */
#pragma once
#include "recurrent/operations.h"

/* An operation whose states upstream gathers before it, if need be, and copies back behind it. */
struct state_operation {
    const struct ggml_tensor *cache;  /* of states, one row for each */
    const struct ggml_tensor *gather; /* the operation that gathers the rows; 0 where there is none */
    const struct ggml_tensor *ids;    /* the row of each sequence */
    int64_t sequences, state_numbers;
    const char *new_states; /* in the result, behind all else */
};

/* Whether the operation is computed here and has one new state for each sequence; if so, what it reads and writes. */
bool delta_net_states(const struct ggml_tensor *result, struct state_operation *states);
bool ssm_scan_states(const struct ggml_tensor *result, struct state_operation *states);

/* The cache's rows that the sequences of this operation have, in their order, where it is to read and write them there;
 * 0 where it has to read what was gathered and write to its result. */
float *rows_in_place(const struct ggml_compute_params *params, const struct ggml_tensor *result);

/* Plan which operations of a graph are computed in place, before its threads start; forget it when these have ended. */
void plan_states(const struct ggml_cgraph *graph);
void forget_states(void);
