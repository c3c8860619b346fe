/* ggml_compute_forward_ssm_conv: short convolutions over time, one filter for each channel.
 *
 * Numbers of one channel lie side by side in the input, and numbers of one token in the result. So a tile of VF_LANES
 * channels by VF_LANES tokens is computed channel by channel and transposed. A filter's products are added in its
 * order, one token being computed as many are. */
#include "recurrent/operations.h"

static bool owns(const struct ggml_tensor *result) {
    const struct ggml_tensor *x = result->src[0], *filter = result->src[1];
    if (!has_f32_rows(x) || !has_f32_rows(filter) || !has_f32_rows(result)) return false;
    const int64_t taps = filter->ne[0], channels = x->ne[1], n_tokens = result->ne[1], sequences = result->ne[2];
    return taps >= 1 && channels % VF_LANES == 0 && has_shape(filter, taps, channels, 1, 1) && is_packed(filter) &&
           has_shape(x, taps - 1 + n_tokens, channels, sequences, 1) && x->nb[1] == sizeof(float) * (size_t)x->ne[0] &&
           has_shape(result, channels, n_tokens, sequences, 1);
}

/* One token with four taps: VF_LANES channels lie side by side in input and filters. */
INLINE void convolve_token(const float *x, const float *filter, float *to) {
    vf input[4], taps[4];
    vf_load_every_4th(x, input);
    vf_load_every_4th(filter, taps);
    vf sum = vf_mul(input[0], taps[0]);
    for (int i = 1; i < 4; i++) sum = vf_fma(input[i], taps[i], sum);
    vf_storeu(to, sum);
}

/* Up to VF_LANES tokens of VF_LANES channels. */
INLINE void convolve_tile(const float *x, int64_t x_stride, const float *filter, int taps, int n_tokens, float *to,
                          int64_t to_stride) {
    vf tile[VF_LANES];
    if (n_tokens == VF_LANES) {
        for (int c = 0; c < VF_LANES; c++) {
            tile[c] = vf_mul(vf_loadu(x + c * x_stride), vf_set1(filter[c * taps]));
            for (int i = 1; i < taps; i++)
                tile[c] = vf_fma(vf_loadu(x + c * x_stride + i), vf_set1(filter[c * taps + i]), tile[c]);
        }
    } else {
        for (int c = 0; c < VF_LANES; c++) {
            tile[c] = vf_mul(vf_load_first(x + c * x_stride, n_tokens), vf_set1(filter[c * taps]));
            for (int i = 1; i < taps; i++) {
                const vf input = vf_load_first(x + c * x_stride + i, n_tokens);
                tile[c] = vf_fma(input, vf_set1(filter[c * taps + i]), tile[c]);
            }
        }
    }
    vf_transpose(tile);
    for (int t = 0; t < n_tokens; t++) vf_storeu(to + t * to_stride, tile[t]);
}

/* VF_LANES channels of a sequence. */
INLINE void convolve(const struct ggml_tensor *result, int taps, int64_t channel, int64_t sequence) {
    const struct ggml_tensor *x = result->src[0];
    const float *filter = (const float *)result->src[1]->data + channel * taps;
    const float *from = f32_at(x, channel, sequence, 0);
    float *to = f32_at(result, 0, sequence, 0) + channel;
    const int64_t n_tokens = result->ne[1], stride = (int64_t)(result->nb[1] / sizeof(float));
    if (n_tokens == 1 && taps == 4) {
        convolve_token(from, filter, to);
        return;
    }
    for (int64_t t = 0; t < n_tokens; t += VF_LANES) {
        const int count = n_tokens - t < VF_LANES ? (int)(n_tokens - t) : VF_LANES;
        convolve_tile(from + t, x->ne[0], filter, taps, count, to + t * stride, stride);
    }
}

static void compute(const struct ggml_compute_params *params, const struct ggml_tensor *result) {
    const int64_t blocks = result->ne[0] / VF_LANES, units = blocks * result->ne[2];
    const int taps = (int)result->src[1]->ne[0];
    /* Neighbouring channels belong to one thread, because they share cache lines of the result. */
    const int64_t each = (units + params->nth - 1) / params->nth, first = params->ith * each;
    for (int64_t unit = first; unit < first + each && unit < units; unit++) {
        const int64_t channel = unit % blocks * VF_LANES, sequence = unit / blocks;
        switch (taps) {
            case 3: convolve(result, 3, channel, sequence); break;
            case 4: convolve(result, 4, channel, sequence); break;
            default: convolve(result, taps, channel, sequence); break;
        }
    }
}

EXPORT void ggml_compute_forward_ssm_conv(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    if (OWNS_OPERATION(ssm_conv, owns(result), params, result)) compute(params, result);
}
