/* Copies of a model's weights in the order of interleaved.h: which there are, and how they come to be. */
#pragma once
#include "interleaved.h"

/* The copy of a product's weights, or 0 where there is none. While a model is being loaded, weights that are met for the
 * first time are copied here, by all threads of the pool, which therefore all have to ask. Until the pool's next barrier a
 * thread may use no more than the place where the copy will be. */
const struct interleaved *copy_of(const struct call *call, const struct tensor *weights);

/* Whether all that is copied may be in the last cache when it is read again, a step later: 98 MB were and 825 MB were not, on a
 * machine whose cores share more than they get. */
bool copies_are_cached(void);
#define CACHED (256 << 20) /* bytes */

/* Bytes that copies may take altogether from now on, for a model with this number; 0: no further ones are made. Not to be
 * called while something is computed, nor may two models be loaded at a time. */
void tailrace_kernels_interleave(int model, int64_t bytes);

/* Give back what was copied of a model: before its weights go, because others may come to lie in their place. */
void tailrace_kernels_forget(int model);

/* Bytes that are copied of a model. */
int64_t tailrace_kernels_interleaved(int model);
