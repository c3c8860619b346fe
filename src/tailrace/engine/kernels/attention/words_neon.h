/* Vectors of words in NEON. */
#pragma once
#include "simd.h"

typedef int32x4_t vi;
INLINE vi vi_zero(void) { return vdupq_n_s32(0); }
INLINE vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
INLINE vf vf_from_vi(vi x) { return vcvtq_f32_s32(x); }

/* sums + a * b, of which each lane adds its pair's products. */
INLINE vi vi_dot_pairs(vi sums, vi a, vi b) {
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vaddq_s32(sums, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
/* The same with one pair for all lanes. */
INLINE vi vi_dot_pair(vi sums, vi a, const int16_t *pair) {
    return vi_dot_pairs(sums, a, vdupq_n_s32((int32_t)load_u32((const uint8_t *)pair)));
}

/* 16 bytes of each of VF_LANES cells: lane n of to[j] has bytes 4 * j to 4 * j + 3 of cell n. */
INLINE void load_columns(const uint8_t *const *cells, int at, vi to[4]) {
    vf m[4];
    for (int n = 0; n < 4; n++) m[n] = vreinterpretq_f32_u8(vld1q_u8(cells[n] + at));
    vf_transpose(m);
    for (int j = 0; j < 4; j++) to[j] = vreinterpretq_s32_f32(m[j]);
}

/* The 16-bit float of each of VF_LANES cells, `at` so many bytes behind its beginning. */
INLINE vf load_f16_of_cells(const uint8_t *const *cells, int at) {
    float numbers[VF_LANES];
    for (int n = 0; n < VF_LANES; n++) numbers[n] = load_f16(cells[n] + at);
    return vld1q_f32(numbers);
}

/* Words of the signed bytes 0 and 2 of each lane, and of 1 and 3. */
INLINE vi even_bytes(vi x) { return vreinterpretq_s32_s16(vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_s32(x), 8), 8)); }
INLINE vi odd_bytes(vi x) { return vreinterpretq_s32_s16(vshrq_n_s16(vreinterpretq_s16_s32(x), 8)); }
/* Nibbles of 0 to 15 less 8, from bit `shift` of each word on. */
INLINE vi nibbles_at(vi x, int shift) {
    const uint16x8_t shifted = vshlq_u16(vreinterpretq_u16_s32(x), vdupq_n_s16((int16_t)-shift));
    const int16x8_t nibbles = vreinterpretq_s16_u16(vandq_u16(shifted, vdupq_n_u16(15)));
    return vreinterpretq_s32_s16(vsubq_s16(nibbles, vdupq_n_s16(8)));
}

/* WORD_LANES signed bytes. */
INLINE vi vi_load_i8(const uint8_t *p) { return vreinterpretq_s32_s16(vmovl_s8(vld1_s8((const int8_t *)p))); }
/* WORD_LANES numbers of a block of nibbles, from number i of the block on. The low nibbles are the first 16 numbers. */
INLINE vi vi_load_i4(const uint8_t *p, int i) {
    return nibbles_at(vreinterpretq_s32_u16(vmovl_u8(vld1_u8(p + i % 16))), i >= 16 ? 4 : 0);
}

/* Pairs of one word of a and one of b. unpair_sums brings lanes into the order of the words. */
INLINE void make_pairs(vi a, vi b, vi to[2]) {
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    to[0] = vreinterpretq_s32_s16(vzip1q_s16(x, y));
    to[1] = vreinterpretq_s32_s16(vzip2q_s16(x, y));
}
INLINE void unpair_sums(const vi sums[2], vi to[2]) { to[0] = sums[0], to[1] = sums[1]; }

/* Store VF_LANES numbers rounded to words. */
INLINE void store_words(int16_t *p, vf x) { vst1_s16(p, vqmovn_s32(vcvtnq_s32_f32(x))); }
