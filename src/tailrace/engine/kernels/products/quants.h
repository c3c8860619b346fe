/* Quants of groups of repacked weights, a vector of them at a time: four weights of each of VF_LANES of the 16 rows.
 * `place` 0 has the first rows, and so on.
 *
 * `vq` is a vector of 4 * VF_LANES bytes. AVX2 and NEON have headers with the same names. AVX-512 unpacks whole groups. */
#pragma once
#include "loading/repack_layout.h"

#if defined(__aarch64__)
#include "products/quants_neon.h"
#else
#include "products/quants_avx2.h"
#endif

/* Vector c of the quants of a block of 32: weights 4 c to 4 c + 3, unsigned. */
INLINE vq unpack_block_quants(enum format format, const uint8_t *group, int place, int c) {
    const uint8_t *quants = group + quants_at(format) + 4 * VF_LANES * place;
    if (traits_of(format).encoding == SIGNED_BYTES) return vq_load(quants + 64 * c); /* unsigned in the group */
    const vq nibbles = vq_nibbles(vq_load(quants + 64 * (c % 4)), c >= 4);
    switch (traits_of(format).encoding) {
        case NIBBLES: return nibbles;
        case CODES: return vq_decode(format, nibbles);
        case NIBBLES_AND_FIFTH: return vq_with_bit(nibbles, vq_load(quants - 64), c, 4);
        case SIGNED_BYTES:
        case FLOATS:
        case TWO_BITS:
        case TWO_BITS_AND_THIRD:
        case NIBBLES_AND_TOP_TWO: break; /* no block of 32 has these */
    }
    __builtin_unreachable();
}

/* The same of weights 32 n to 32 n + 31 of a half of a super-block, n up to 3. */
INLINE vq unpack_super_quants(enum format format, const uint8_t *half, int place, int n, int c) {
    const uint8_t *quants = half + super_quants_at(format) + 4 * VF_LANES * place;
    switch (traits_of(format).encoding) {
        case TWO_BITS: return vq_bit_pairs(vq_load(quants + 64 * c), n);
        case TWO_BITS_AND_THIRD: {
            const vq low = vq_bit_pairs(vq_load(quants + 256 + 64 * c), n);
            return vq_with_bit(low, vq_load(quants + 64 * n), c, 2);
        }
        case NIBBLES: return vq_nibbles(vq_load(quants + 512 * (n / 2) + 64 * c), n % 2);
        case CODES: return vq_decode(format, vq_nibbles(vq_load(quants + 256 * n + 64 * (c % 4)), c >= 4));
        case NIBBLES_AND_FIFTH: {
            quants += 640 * (n / 2);
            return vq_with_bit(vq_nibbles(vq_load(quants + 128 + 64 * c), n % 2), vq_load(quants + 64 * (n % 2)), c, 4);
        }
        case NIBBLES_AND_TOP_TWO: {
            const vq low = vq_nibbles(vq_load(quants + 512 + 512 * (n % 2) + 64 * c), n >= 2);
            return vq_with_top_two(low, vq_load(quants + 64 * c), n);
        }
        case FLOATS:
        case SIGNED_BYTES: break; /* no super-block has these */
    }
    __builtin_unreachable();
}

/* Bytes of a group from the quants of part 0 to those of part n, which is 0 or 4, of a super-block. */
INLINE int64_t part_quants(enum format format, int n) {
    return n / 4 * (group_bytes(format) - super_quants_at(format)) / 2;
}
