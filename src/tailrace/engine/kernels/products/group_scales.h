/* Scales of groups of repacked weights, of VF_LANES of the 16 rows: `place` 0 has the first ones, and so on. */
#pragma once
#include "loading/repack_layout.h"

/* The scales of a group of blocks of 32. */
INLINE vf load_group_scales(enum format format, const uint8_t *group, int place) {
    return traits_of(format).scale_bytes == 1 ? vf_load_e8m0(group + VF_LANES * place)
                                              : vf_load_f16(group + 2 * VF_LANES * place);
}

/* The scales of weights 32 n to 32 n + 31 of super-blocks: of the first 16 weights, and of the others. */
INLINE void load_part_scales(enum format format, const uint8_t *group, int place, int n, vf scale[2]) {
    const uint8_t *scales = group + SUPER_SCALES_AT;
    switch (format) {
        case Q2_K: vf_load_nibble_pairs(scales + 32 * n + 2 * VF_LANES * place, scale); return;
        case Q3_K:
        case Q6_K:
            scale[0] = vf_load_i8(scales + 32 * n + VF_LANES * place);
            scale[1] = vf_load_i8(scales + 32 * n + 16 + VF_LANES * place);
            return;
        case Q4_K:
        case Q5_K: scale[0] = scale[1] = vf_load_u8(scales + 16 * n + VF_LANES * place); return;
        case IQ4_XS: scale[0] = scale[1] = vf_load_i8(scales + 16 * n + VF_LANES * place); return;
        case Q4_0:
        case Q4_1:
        case Q5_0:
        case Q5_1:
        case Q8_0:
        case IQ4_NL:
        case MXFP4:
        case F16:
        case BF16: break; /* no super-blocks */
    }
    __builtin_unreachable();
}
