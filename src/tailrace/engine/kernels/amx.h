/* Tiles of AMX: whether this process may use them, and a configuration for as long as an operation lasts.
 *
 * A tile is 16 rows of 64 bytes, eight of them are registers, and one instruction is the product of two, of bytes or of
 * 16-bit floats (bf16), added to a third in 32 bits: some 30 times what the FMA units do in single precision. */
#pragma once
#include <immintrin.h>

#include "abi.h"

/* Intel's Linux kernels give a process tiles when it asks for them, and to its threads with it. Asked for once. */
bool amx_allowed(void);

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define HAS_AMX 1

struct tile_configuration {
    uint8_t bytes[64];
};

/* GCC's own macros for these don't say that memory is read, or how much of it, so that it leaves out stores before them
 * (_tile_loadconfig until GCC 14, _tile_loadd until now). */
#define TILE_LOAD(tile, from, stride) \
    __asm__ volatile("tileloadd\t(%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"((long)(stride)) : "memory")
#define TILE_STORE(tile, to, stride) \
    __asm__ volatile("tilestored\t%%tmm" #tile ", (%0,%1,1)" ::"r"((void *)(to)), "r"((long)(stride)) : "memory")

/* From here on all eight tiles have 16 rows of 64 bytes. What was there before comes back with tiles_end: llama.cpp
 * configures its own tiles once for each of its threads and relies on that. */
INLINE struct tile_configuration tiles_begin(void) {
    struct tile_configuration before, ours = {{1}}; /* the palette; from byte 16 on bytes of a row, from 48 on rows */
    __asm__ volatile("sttilecfg\t%0" : "=m"(before));
    for (int tile = 0; tile < 8; tile++) ours.bytes[16 + 2 * tile] = 64, ours.bytes[48 + tile] = 16;
    __asm__ volatile("ldtilecfg\t%0" ::"m"(ours));
    return before;
}
INLINE void tiles_end(struct tile_configuration before) { __asm__ volatile("ldtilecfg\t%0" ::"m"(before)); }
#else
#define HAS_AMX 0
#endif
