/* AMX tile registers: whether this process may use them, and a configuration for the duration of an operation.
 *
 * A tile is 16 rows of 64 bytes, and there are eight. One instruction multiplies two tiles of bytes or of bf16 numbers
 * and adds the product to a third in 32 bits, some 30 times the rate of the FMA units in single precision. */
#pragma once
#include "simd.h"

/* Whether tiles can be used. The first call asks the kernel, which grants them to all threads of the process. */
EXPORT bool tailrace_kernels_amx_usable(void);

/* The compiler has these where the library is compiled for the tier `amx`. */
#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define HAS_AMX 1

struct tile_config {
    uint8_t bytes[64];
};

/* GCC's own macros for these don't say that memory is read, or how much of it, so it drops stores before them
 * (_tile_loadconfig until GCC 14, _tile_loadd until now). */
#define TILE_LOAD(tile, from, stride)                                                                                  \
    __asm__ volatile("tileloadd\t(%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"((long)(stride)) : "memory")
#define TILE_STORE(tile, to, stride)                                                                                   \
    __asm__ volatile("tilestored\t%%tmm" #tile ", (%0,%1,1)" ::"r"((void *)(to)), "r"((long)(stride)) : "memory")

/* Configure all eight tiles as 16 rows of 64 bytes. Upstream configures its own tiles once for each thread and relies
 * on that, so tiles_end restores what tiles_begin returns. */
INLINE struct tile_config tiles_begin(void) {
    /* The palette; from byte 16 on the bytes of a row, from 48 on the number of rows. */
    struct tile_config before, config = {{1}};
    __asm__ volatile("sttilecfg\t%0" : "=m"(before));
    for (int tile = 0; tile < 8; tile++) config.bytes[16 + 2 * tile] = 64, config.bytes[48 + tile] = 16;
    __asm__ volatile("ldtilecfg\t%0" ::"m"(config));
    return before;
}
INLINE void tiles_end(struct tile_config before) { __asm__ volatile("ldtilecfg\t%0" ::"m"(before)); }
#else
#define HAS_AMX 0
#endif
