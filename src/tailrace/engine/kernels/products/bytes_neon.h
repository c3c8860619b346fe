/* Numbers as signed bytes, in NEON: what quantising activations needs. */
#pragma once
#include "simd.h"

typedef struct {
    int8x16_t low, high;
} bytes32;

INLINE void store_bytes(uint8_t *p, bytes32 bytes) {
    vst1q_s8((int8_t *)p, bytes.low);
    vst1q_s8((int8_t *)p + 16, bytes.high);
}

/* The sums of the first 16 of 32 signed bytes, and of the others. */
INLINE void sums_of_bytes(bytes32 bytes, int32_t sums[2]) {
    sums[0] = vaddlvq_s8(bytes.low);
    sums[1] = vaddlvq_s8(bytes.high);
}

INLINE int16x8_t round_to_i16x8(const float *x, float times) {
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), times));
    const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), times));
    return vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
}
INLINE int8x16_t round_to_i8x16(const float *x, float times) {
    return vcombine_s8(vqmovn_s16(round_to_i16x8(x, times)), vqmovn_s16(round_to_i16x8(x + 8, times)));
}

/* 32 numbers times `times`, rounded to bytes. */
INLINE bytes32 round_to_bytes(const float *x, float times) {
    return (bytes32){round_to_i8x16(x, times), round_to_i8x16(x + 16, times)};
}
