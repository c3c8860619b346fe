/* Products with many columns, the tokens of a prompt, in tiles of bf16 (AMX). */
#pragma once
#include "abi.h"
#include "interleaved.h"

/* From so many columns on it is faster than products of bytes, eight columns at a time: a prompt of 32 tokens took 12.3 ms
 * and 11.7, of 48 15.5 and 17.8, of 512 128 and 206 (SmolLM2-135M, 2 cores of a Sapphire Rapids). With fewer, a column's
 * numbers don't depend on how many others there are. */
#define WIDE_FROM 40

/* result[column][row] = row of the weights . column of the activations, both F32. Called by every thread of the pool with the
 * same arguments. True when it is done; false, with nothing done and for all of them alike, when columns are fewer than that,
 * activations aren't plain columns of F32, this CPU or the kernel has no tiles, or there is no memory. */
bool wide_product(const struct call *call, const struct interleaved *weights, const struct tensor *activations,
                  struct tensor *result);
