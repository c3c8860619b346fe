/* ggml_compute_forward_mul where each row has one factor: Mamba-2 scales each head's input by a number. Upstream takes
 * such factors number by number, at a tenth of the speed. All other products are upstream's. */
#include "recurrent/operations.h"

static bool has_row_factors(const struct ggml_tensor *result) {
    const struct ggml_tensor *rows = result->src[0], *factors = result->src[1];
    if (!has_f32_rows(rows) || !has_f32_rows(factors) || !has_f32_rows(result)) return false;
    if (factors->ne[0] != 1 || rows->ne[0] == 1) return false;
    for (int i = 0; i < 4; i++)
        if (rows->ne[i] != result->ne[i] || factors->ne[i] < 1 || rows->ne[i] % factors->ne[i]) return false;
    return true;
}

EXPORT void ggml_compute_forward_mul(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    if (!has_row_factors(result)) {
        if (!upstream.ggml_compute_forward_mul) abort_without("ggml_compute_forward_mul");
        upstream.ggml_compute_forward_mul(params, result);
        return;
    }
    const struct ggml_tensor *rows = result->src[0], *factors = result->src[1];
    const int64_t n_rows = rows->ne[1] * rows->ne[2] * rows->ne[3], each = (n_rows + params->nth - 1) / params->nth;
    for (int64_t row = params->ith * each; row < n_rows && row < (params->ith + 1) * each; row++) {
        const int64_t i1 = row % rows->ne[1], i2 = row / rows->ne[1] % rows->ne[2],
                      i3 = row / rows->ne[1] / rows->ne[2];
        const float factor = *f32_at(factors, i1 % factors->ne[1], i2 % factors->ne[2], i3 % factors->ne[3]);
        const float *from = f32_at(rows, i1, i2, i3);
        float *to = f32_at(result, i1, i2, i3);
        for (int64_t i = 0; i < rows->ne[0]; i++) to[i] = from[i] * factor;
    }
}
