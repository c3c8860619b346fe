/* Weights in an order of our own: sixteen rows side by side, so that a vector's lanes are rows.
 *
 * As a file has them, a row's block of 32 weights lies alone, and a dot product ends in a sum across lanes for every row.
 * Here a group is one block of 16 rows, as many bytes as in the file, in the file's order otherwise: groups of the same 16
 * rows follow each other block by block, then come the next 16 rows.
 *
 *   scales    16 halves, row by row
 *   minima    16 halves (formats that have them)
 *   quants    64 bytes at a time, four of each row: bytes 4 c to 4 c + 3 of every row's quants are vector c. Nibbles stay
 *             as they are (low ones weights 4 c to 4 c + 3, high ones 16 more), Q8_0 has 128 added and is unsigned.
 *
 * So a vector with its nibbles apart is 16 rows by 4 weights: what a product of four bytes a lane (VNNI) takes, and the
 * rows of a tile of bytes (AMX).
 *
 * Super-blocks of 256 weights are groups, too, with their scales as bytes that need no unpacking:
 *
 *   Q4_K      16 halves d, 16 halves dmin; eight times 16 scales; four times 16 rows' minima of two blocks of 32 beside each
 *             other; quants 64 bytes at a time as above: vector 8 g + c is bytes 32 g + 4 c to 32 g + 4 c + 3 of every row's.
 *   Q6_K      16 halves d, 32 bytes of nothing; 16 times 16 scales; two times eight vectors of qh and 16 of ql. */
#pragma once
#include "formats.h"

enum { GROUP_ROWS = 16 };

struct interleaved {
    int type;                 /* Q4_0, Q4_1, Q8_0, Q4_K or Q6_K */
    int64_t rows, blocks;     /* rows, a multiple of 16; blocks in each, of 32 weights or (Q4_K, Q6_K) 256 */
    const uint8_t *data;      /* aligned to 64 bytes; rows / 16 * blocks groups */
};

INLINE bool super_blocks(int type) { return type == Q4_K || type == Q6_K; }
INLINE int numbers_of(int type) { return super_blocks(type) ? 256 : 32; }

/* Bytes of a group of blocks of 32, and of what stands before its quants. */
INLINE int64_t group_bytes(struct format f) { return GROUP_ROWS * (int64_t)f.bytes; }
INLINE int group_head(struct format f) { return f.minimum ? 64 : 32; }

/* The same of super-blocks. */
enum { SUPER_HEAD = 320 };
INLINE int64_t super_bytes(int type) { return SUPER_HEAD + (type == Q4_K ? 2048 : 3072); }

INLINE bool may_copy(int type) { return super_blocks(type) || type == Q4_0 || type == Q4_1 || type == Q8_0; }
INLINE int64_t bytes_of_group(int type) { return super_blocks(type) ? super_bytes(type) : group_bytes(format_of(type)); }

/* The whole product, called by every thread of the pool; false, and nothing done, where it can't be. */
bool interleaved_product(const struct call *, const struct interleaved *, struct tensor *result);
