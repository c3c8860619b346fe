/* ggml_compute_forward_concat where the second operand is transposed: recurrent layers put a convolution's last inputs
 * before those of the new tokens, which lie token by token. Upstream copies number by number. */
#include "recurrent/operations.h"

static bool owns(const struct ggml_tensor *result) {
    const struct ggml_tensor *left = result->src[0], *right = result->src[1];
    if (ggml_get_op_params_i32(result, 0) != 0 || !has_f32_rows(left) || !has_f32_rows(result)) return false;
    if (!right || right->type != GGML_TYPE_F32 || right->nb[1] != sizeof(float)) return false;
    return has_shape(left, left->ne[0], result->ne[1], result->ne[2], result->ne[3]) &&
           has_shape(right, result->ne[0] - left->ne[0], result->ne[1], result->ne[2], result->ne[3]);
}

/* Transpose up to VF_LANES rows of up to VF_LANES numbers. */
INLINE void transpose_tile(const float *from, int64_t from_stride, int rows, int columns, float *to,
                           int64_t to_stride) {
    vf tile[VF_LANES];
    if (rows == VF_LANES && columns == VF_LANES) {
        for (int i = 0; i < VF_LANES; i++) tile[i] = vf_loadu(from + i * from_stride);
        vf_transpose(tile);
        for (int i = 0; i < VF_LANES; i++) vf_storeu(to + i * to_stride, tile[i]);
        return;
    }
    for (int j = 0; j < columns; j++)
        for (int i = 0; i < rows; i++) to[j * to_stride + i] = from[i * from_stride + j];
}

/* Rows `first` to `end` of the result, which are columns of the second operand. */
static void concat_rows(const struct ggml_tensor *result, int64_t first, int64_t end, int64_t i2, int64_t i3) {
    const struct ggml_tensor *left = result->src[0], *right = result->src[1];
    const int64_t n_left = left->ne[0], n_right = right->ne[0];
    const int64_t stride = (int64_t)(right->nb[0] / sizeof(float)),
                  to_stride = (int64_t)(result->nb[1] / sizeof(float));
    for (int64_t row = first; row < end; row += VF_LANES) {
        const int columns = end - row < VF_LANES ? (int)(end - row) : VF_LANES;
        float *to = f32_at(result, row, i2, i3);
        for (int j = 0; j < columns; j++) {
            const float *from = f32_at(left, row + j, i2, i3);
            for (int64_t i = 0; i < n_left; i++) to[j * to_stride + i] = from[i];
        }
        const float *from = f32_at(right, row, i2, i3);
        for (int64_t i = 0; i < n_right; i += VF_LANES)
            transpose_tile(from + i * stride, stride, n_right - i < VF_LANES ? (int)(n_right - i) : VF_LANES, columns,
                           to + n_left + i, to_stride);
    }
}

static void compute(const struct ggml_compute_params *params, const struct ggml_tensor *result) {
    const int64_t blocks = (result->ne[1] + VF_LANES - 1) / VF_LANES;
    const int64_t each = (blocks + params->nth - 1) / params->nth * VF_LANES, first = params->ith * each;
    const int64_t end = first + each < result->ne[1] ? first + each : result->ne[1];
    for (int64_t i3 = 0; i3 < result->ne[3]; i3++)
        for (int64_t i2 = 0; i2 < result->ne[2]; i2++) concat_rows(result, first, end, i2, i3);
}

EXPORT void ggml_compute_forward_concat(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    if (OWNS_OPERATION(concat, owns(result), params, result)) compute(params, result);
}
