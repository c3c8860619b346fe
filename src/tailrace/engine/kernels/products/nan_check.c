/* NaN in activations: see nan_check.h. */
#include <math.h>

#include "products/nan_check.h"

/* The thread's next product, if its activations hold a NaN. */
static _Thread_local struct nan_product {
    const void *result;
    const struct ggml_tensor *activations;
} nan_product;

static bool has_nan(const struct ggml_tensor *activations, int64_t token) {
    const float *x = (const float *)((const char *)activations->data + token * (int64_t)activations->nb[1]);
    vm nan = vf_is_nan(vf_zero());
    for (int64_t i = 0; i < activations->ne[0] / 16 * 16; i += VF_LANES) nan = vm_or(nan, vf_is_nan(vf_loadu(x + i)));
    return vm_any(nan);
}

void skip_nan_check(void) { TLS_PTR(nan_product)->result = 0; }

void check_for_nan(const struct ggml_tensor *result, const struct ggml_tensor *activations) {
    bool found = false;
    for (int64_t j = 0; !found && j < activations->ne[1]; j++) found = has_nan(activations, j);
    if (found) *TLS_PTR(nan_product) = (struct nan_product){result->data, activations};
}

void spread_nan(float *out, int64_t out_stride, int64_t first_token, int64_t n_tokens, int64_t begin, int64_t end) {
    const struct nan_product *product = TLS_PTR(nan_product);
    if (product->result != out) return;
    for (int64_t j = first_token; j < first_token + n_tokens; j++) {
        if (!has_nan(product->activations, j)) continue;
        for (int64_t r = begin; r < end; r++) out[j * out_stride + r] = NAN;
    }
}
