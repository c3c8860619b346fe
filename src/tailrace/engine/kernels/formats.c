/* The table of formats, for Python. */
#include "formats.h"
#include "products/file_order.h"

/* Row `index` of the table in `row`: ggml's type; bytes and weights of a block; ggml's type of activations; whether
 * there is a kernel for weights in file order, and one for repacked weights; where the scale is in the block, and the
 * 16-bit minimum (or -1); bytes of the scale. False behind the last row. */
EXPORT bool tailrace_kernels_format(int index, int32_t row[9]) {
    if (index < 0 || index >= N_FORMATS) return false;
    const struct format_traits t = traits_of((enum format)index);
    const int32_t values[9] = {(int32_t)t.type,
                               t.bytes,
                               t.weights,
                               (int32_t)t.activation_type,
                               HAS_FILE_ORDER && t.encoding != FLOATS,
                               is_repacked((enum format)index),
                               t.scale_at,
                               t.min_at,
                               t.scale_bytes};
    memcpy(row, values, sizeof values);
    return true;
}
