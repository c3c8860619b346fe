/* Counts of the operations of recurrent layers. */
#include "recurrent/operations.h"

#define OPERATION_NAME(name) #name,
static const char *const names[] = {RECURRENT_OPERATIONS(OPERATION_NAME)};

struct operation_counts operation_counts[N_RECURRENT_OPERATIONS];

/* The name of operation `index`, and how often it was computed here and delegated to upstream; 0 behind the last. */
EXPORT const char *tailrace_kernels_recurrent_counts(int index, long *own, long *delegated) {
    if (index < 0 || index >= N_RECURRENT_OPERATIONS) return 0;
    *own = operation_counts[index].own, *delegated = operation_counts[index].upstream;
    return names[index];
}
