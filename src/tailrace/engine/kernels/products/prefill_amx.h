/* Products of repacked weights with many tokens (a prompt) in AMX tiles of bf16. */
#pragma once
#include "loading/ggml_api.h"
#include "loading/repack_layout.h"

/* Tokens from which it is faster than 8-bit products of eight tokens at a time (a prompt of 48 tokens: 15.5 ms and
 * 17.8). With fewer tokens, a token's results don't depend on how many others there are. */
#define MIN_PROMPT_TOKENS 40

/* result[token][row] = row of the weights . activations of the token, both F32. Called by every thread of the pool with
 * the same arguments. True when it is computed. False, with nothing done and for all threads alike, where there are
 * fewer tokens, the activations aren't an F32 matrix, tiles can't be used, threads can't share work, or there is no
 * memory. */
bool prompt_product(const struct ggml_compute_params *params, const struct repacked *weights,
                    const struct ggml_tensor *activations, struct ggml_tensor *result);
