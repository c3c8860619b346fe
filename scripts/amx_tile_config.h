/* Force-included when llama.cpp is compiled on a machine with AMX (see scripts/setup.py).
 *
 * GCC before 14 declares _tile_loadconfig's operand as 8 bytes of the 64-byte configuration, so the optimiser may
 * drop the stores to the other 56 and LDTILECFG then faults with SIGSEGV. This definition names all 64 bytes.
 */
#pragma once
#if defined(__GNUC__) && !defined(__clang__) && defined(__AMX_TILE__)
/* Only here: parsing it takes a tenth of a small file's compile. */
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
#endif
