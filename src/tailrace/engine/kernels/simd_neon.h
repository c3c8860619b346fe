/* Float vectors of NEON, as every 64-bit ARM CPU has them, and prefetches. Proved under QEMU (make test-arm). */
#pragma once
#include <arm_neon.h>

INLINE float load_f16(const uint8_t *p) {
    __fp16 half;
    memcpy(&half, p, 2);
    return (float)half;
}

/* Rounded to 16 bits. */
INLINE float round_to_f16(float x) { return (float)(__fp16)x; }

INLINE void pause_cpu(void) { __asm__ volatile("yield"); }

INLINE void prefetch_l1(const uint8_t *p) { __builtin_prefetch(p, 0, 3); }

/* Cache lines of a range, into the second-level cache. */
INLINE void prefetch_l2(const uint8_t *p, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + line, 0, 2);
}

#define VF_LANES     4
#define VF_REGISTERS 32
typedef float32x4_t vf;
typedef uint32x4_t vm; /* all bits of a lane are set, or none */

INLINE vf vf_zero(void) { return vdupq_n_f32(0); }
INLINE vf vf_set1(float x) { return vdupq_n_f32(x); }
INLINE vf vf_load(const float *p) { return vld1q_f32(p); } /* aligned to a vector */
INLINE vf vf_loadu(const float *p) { return vld1q_f32(p); }
INLINE void vf_store(float *p, vf x) { vst1q_f32(p, x); } /* aligned to a vector */
INLINE void vf_storeu(float *p, vf x) { vst1q_f32(p, x); }

/* The first n lanes, 0 to VF_LANES. Memory of the other lanes is not touched; loaded lanes are 0 there. */
INLINE vf vf_load_first(const float *p, int n) {
    float numbers[VF_LANES] = {0};
    for (int i = 0; i < n; i++) numbers[i] = p[i];
    return vld1q_f32(numbers);
}
INLINE void vf_store_first(float *p, int n, vf x) {
    float numbers[VF_LANES];
    vst1q_f32(numbers, x);
    for (int i = 0; i < n; i++) p[i] = numbers[i];
}

INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }         /* a * b + c */
INLINE vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }        /* c - a * b */
INLINE vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); } /* b where one of them is NaN */
INLINE vf vf_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); } /* b where one of them is NaN */
INLINE vf vf_abs(vf x) { return vabsq_f32(x); }
INLINE vf vf_sqrt(vf x) { return vsqrtq_f32(x); }
INLINE vf vf_round(vf x) { return vrndnq_f32(x); } /* to the nearest whole number, halves to even */
INLINE float vf_reduce_add(vf x) { return vaddvq_f32(x); }
INLINE float vf_reduce_max(vf x) { return vmaxvq_f32(x); }

/* Store the sums of the lanes of four vectors. */
INLINE void vf_store_sums_x4(float *p, vf a, vf b, vf c, vf d) {
    vst1q_f32(p, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}

/* Rows of a square matrix become its columns. */
INLINE void vf_transpose(vf m[VF_LANES]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(m[0], m[1])),
                      c = vreinterpretq_f64_f32(vtrn1q_f32(m[2], m[3]));
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(m[0], m[1])),
                      d = vreinterpretq_f64_f32(vtrn2q_f32(m[2], m[3]));
    m[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    m[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    m[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    m[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

/* to[i] has every fourth of 4 * VF_LANES numbers, from number i on. */
INLINE void vf_load_every_4th(const float *p, vf to[4]) {
    const float32x4x4_t four = vld4q_f32(p);
    for (int i = 0; i < 4; i++) to[i] = four.val[i];
}

/* The parts of a positive normal number: x = vf_mantissa(x) * 2^vf_exponent(x), with a mantissa from 1 to below 2. */
INLINE vf vf_exponent(vf x) {
    const int32x4_t biased = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_f32(x), 23));
    return vcvtq_f32_s32(vsubq_s32(biased, vdupq_n_s32(127)));
}
INLINE vf vf_mantissa(vf x) {
    const uint32x4_t fraction = vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7fffff));
    return vreinterpretq_f32_u32(vorrq_u32(fraction, vdupq_n_u32(0x3f800000)));
}

/* 16-bit floats and signed bytes, VF_LANES of them. */
INLINE vf vf_load_f16(const uint8_t *p) {
    float16x4_t halves;
    memcpy(&halves, p, 8);
    return vcvt_f32_f16(halves);
}
INLINE vf vf_load_bf16(const uint8_t *p) {
    uint16x4_t halves;
    memcpy(&halves, p, 8);
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}
/* Pairs of bf16, VF_LANES of them: the first numbers and the second ones. */
INLINE void vf_load_bf16_pairs(const uint8_t *p, vf to[2]) {
    const uint32x4_t pairs = vreinterpretq_u32_u8(vld1q_u8(p));
    to[0] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    to[1] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)));
}
/* The first eight lanes, which there are only four of. */
INLINE vf vf_load_f16_eight(const uint8_t *p) { return vf_load_f16(p); }
INLINE vf vf_load_bf16_eight(const uint8_t *p) { return vf_load_bf16(p); }

INLINE uint8x8_t load_four_bytes(const uint8_t *p) { return vreinterpret_u8_u32(vdup_n_u32(load_u32(p))); }
INLINE vf vf_from_u8(uint8x8_t bytes) { return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes)))); }
INLINE vf vf_load_u8(const uint8_t *p) { return vf_from_u8(load_four_bytes(p)); }
INLINE vf vf_load_i8(const uint8_t *p) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four_bytes(p))))));
}
/* The low nibbles of pairs of bytes, VF_LANES of them: of the first bytes and of the second ones. */
INLINE void vf_load_nibble_pairs(const uint8_t *p, vf to[2]) {
    const uint32x4_t pairs = vreinterpretq_u32_u16(vmovl_u8(vld1_u8(p))), low = vdupq_n_u32(15);
    to[0] = vcvtq_f32_u32(vandq_u32(pairs, low));
    to[1] = vcvtq_f32_u32(vandq_u32(vshrq_n_u32(pairs, 16), low));
}
/* Half the powers of two of four E8M0 exponents, as ggml has them: those of 0 and 1 are subnormal. */
INLINE vf vf_load_e8m0(const uint8_t *p) {
    const uint32x4_t e = vmovl_u16(vget_low_u16(vmovl_u8(load_four_bytes(p))));
    const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
    const uint32x4_t small = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
    return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), small, normal));
}

INLINE vm vm_from_bits(uint32_t bits) { /* bit i is lane i */
    const uint32x4_t lane = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(bits), lane);
}
INLINE vm vm_or(vm a, vm b) { return vorrq_u32(a, b); }
INLINE bool vm_any(vm m) { return vmaxvq_u32(m) != 0; }
INLINE vm vf_lt(vf a, vf b) { return vcltq_f32(a, b); } /* false for NaN, as are the next two */
INLINE vm vf_le(vf a, vf b) { return vcleq_f32(a, b); }
INLINE vm vf_gt(vf a, vf b) { return vcgtq_f32(a, b); }
INLINE vm vf_is_nan(vf x) { return vmvnq_u32(vceqq_f32(x, x)); }
INLINE vf vf_select(vm m, vf a, vf b) { return vbslq_f32(m, a, b); } /* a where m is set, else b */
INLINE vf vf_zero_where(vm m, vf x) { return vbslq_f32(m, vdupq_n_f32(0), x); }

/* x * 2^whole, where whole is a whole number from -115 to 128. The scale is half of it, because 2^128 is infinite. */
INLINE vf vf_scale_exp2(vf x, vf whole) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(whole), vdupq_n_s32(126));
    const vf half = vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
    return vaddq_f32(half, half);
}

/* Which of 64 numbers of 16 bits differ from `value`. */
INLINE uint64_t differing_u16x64(const uint16_t *p, uint16_t value) {
    const uint16x8_t all = vdupq_n_u16(value), bit = {1, 2, 4, 8, 16, 32, 64, 128};
    uint64_t equal = 0;
    for (int i = 0; i < 64; i += 8)
        equal |= (uint64_t)vaddvq_u16(vandq_u16(vceqq_u16(vld1q_u16(p + i), all), bit)) << i;
    return ~equal;
}

/* Store the places of the set bits, each increased by `first`. Up to 64 numbers are written. */
INLINE void store_bit_places(uint32_t *to, uint64_t bits, uint32_t first) {
    for (; bits; bits &= bits - 1) *to++ = first + (uint32_t)__builtin_ctzll(bits);
}

/* The bits of `bits` that stand where `mask` has a 1, side by side. */
INLINE uint64_t bits_where(uint64_t bits, uint64_t mask) {
    uint64_t found = 0;
    for (int place = 0; mask; mask &= mask - 1) found |= (bits >> __builtin_ctzll(mask) & 1) << place++;
    return found;
}
