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
 * rows of a tile of bytes (AMX). */
#pragma once
#include "formats.h"

enum { GROUP_ROWS = 16 };

struct interleaved {
    int type;                 /* Q4_0, Q4_1 or Q8_0 */
    int64_t rows, blocks;     /* rows, a multiple of 16; blocks of 32 weights in each */
    const uint8_t *data;      /* aligned to 64 bytes; rows / 16 * blocks groups */
};

/* Bytes of a group, and of what stands before its quants. */
INLINE int64_t group_bytes(struct format f) { return GROUP_ROWS * (int64_t)f.bytes; }
INLINE int group_head(struct format f) { return f.minimum ? 64 : 32; }

/* The whole product, called by every thread of the pool; false, and nothing done, where it can't be. */
bool interleaved_product(const struct call *, const struct interleaved *, struct tensor *result);
