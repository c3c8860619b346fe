/* Attention in tiers that have no code for it: upstream computes all of it. */
#include <stdio.h>
#include <stdlib.h>

#include "loading/ggml_api.h"

#if !HAS_AVX512
static long n_upstream;
EXPORT void tailrace_kernels_attention_counts(long *own, long *delegated) { *own = 0, *delegated = n_upstream; }
EXPORT void tailrace_kernels_set_exact_tokens(int64_t n_tokens) { (void)n_tokens; }
EXPORT int tailrace_kernels_cache_type(int index) {
    (void)index;
    return -1;
}

EXPORT void ggml_compute_forward_flash_attn_ext(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    if (params->ith == 0) n_upstream++;
    if (!upstream.ggml_compute_forward_flash_attn_ext) {
        fputs("tailrace: llama.cpp has no ggml_compute_forward_flash_attn_ext\n", stderr);
        abort();
    }
    upstream.ggml_compute_forward_flash_attn_ext(params, result);
}
#endif
