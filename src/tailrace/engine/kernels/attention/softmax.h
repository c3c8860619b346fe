/* The online softmax of a row over a tile of cells, and what models add to its scores. */
#pragma once
#include "attention/mask_runs.h"

/* 2^(x - max) for a whole number max >= x, and 0 below 2^-115. NaN stays NaN. */
INLINE vf exp2_below(vf x, vf max) {
    const vf whole = vf_round(x), f = vf_sub(x, whole), exponent = vf_sub(whole, max);
    /* For minus infinity the polynomial is NaN. */
    return vf_zero_where(vf_le(exponent, vf_set1(-115.0f)), vf_scale_exp2(vf_exp2_fraction(f), exponent));
}

/* Scores with a softcap: cap * tanh(score / cap). load_queries has scaled them to the argument of 2^x. */
INLINE void cap_scores(float *scores, int n_cells, float cap) {
    for (int j = 0; j < n_cells; j += VF_LANES) {
        const vf x = vf_load(scores + j), one = vf_set1(1.0f);
        const vf e = vf_exp2(vf_sub(vf_zero(), vf_abs(x)));
        const vf size = vf_mul(vf_div(vf_sub(one, e), vf_add(one, e)), vf_set1(cap * LOG2_E));
        vf_store(scores + j, vf_select(vf_lt(x, vf_zero()), vf_sub(vf_zero(), size), size));
    }
}

/* Scores with ALiBi: what the mask holds is minus the distance to each cell. */
INLINE void add_distances(float *scores, const float *distances, int n_cells, float slope) {
    for (int j = 0; j < n_cells; j += VF_LANES)
        vf_store(scores + j, vf_fma(vf_load(distances + j), vf_set1(slope), vf_load(scores + j)));
}

/* Scores become probabilities relative to the new row_max, and what has been accumulated is rescaled to it. `visible`
 * has a bit for each cell.
 *
 * row_max is a whole number, so scales are powers of two: a row's result is the same to the last bit wherever tiles
 * begin. A score that is NaN or plus infinity makes the row's sum NaN, and so its result: damaged keys must not look
 * like cells without weight. */
INLINE void softmax_row(struct scratch *scratch, float *scores, int row, int acc_row, uint64_t visible, int n_cells) {
    vf s[TILE_CELLS / VF_LANES], top = vf_set1(-INFINITY);
    vm unordered = vf_is_nan(top);
    const int n = n_cells / VF_LANES;
    const bool all = !(~visible << (64 - n_cells));
    for (int i = 0; i < n; i++) {
        s[i] = vf_load(scores + VF_LANES * i);
        if (!all) s[i] = vf_select(vm_from_bits((uint32_t)(visible >> (VF_LANES * i))), s[i], vf_set1(-INFINITY));
        top = vf_max(s[i], top); /* of NaN and a number, this is the second operand */
        unordered = vm_or(unordered, vf_is_nan(s[i]));
    }
    const float before = scratch->row_max[row], now = ceilf(fmaxf(before, vf_reduce_max(top)));
    if (now == -INFINITY) {
        if (vm_any(unordered)) scratch->row_max[row] = 0, scratch->row_sum[row] = NAN; /* unlike a row without cells */
        memset(scores, 0, (size_t)n_cells * sizeof(float));
        return;
    }
    vf sum = vf_load(scratch->lane_sums + row * VF_LANES);
    if (now > before) {
        const float by = before == -INFINITY ? 0.0f : exp2f(before - now);
        scratch->row_sum[row] *= by;
        sum = vf_mul(sum, vf_set1(by));
        for (float *p = scratch->acc + row * acc_row; p < scratch->acc + (row + 1) * acc_row; p += VF_LANES)
            vf_store(p, vf_mul(vf_load(p), vf_set1(by)));
        scratch->row_max[row] = now;
    }
    for (int i = 0; i < n; i++) {
        const vf e = exp2_below(s[i], vf_set1(now));
        sum = vf_add(sum, e);
        vf_store(scores + VF_LANES * i, e);
    }
    vf_store(scratch->lane_sums + row * VF_LANES, sum);
}

/* Add the sums of a row's lanes over a window to row_sum. `first_seen` is the first of the listed cells that the row
 * sees: its lane is added first, so that the order doesn't depend on the run's other tokens. */
INLINE void finish_row_sum(struct scratch *scratch, int row, int first_seen) {
    float twice[2 * VF_LANES], *lanes = scratch->lane_sums + row * VF_LANES;
    const vf sums = vf_load(lanes);
    vf_storeu(twice, sums);
    vf_storeu(twice + VF_LANES, sums);
    scratch->row_sum[row] += vf_reduce_add(vf_loadu(twice + first_seen % VF_LANES));
    vf_store(lanes, vf_zero());
}
