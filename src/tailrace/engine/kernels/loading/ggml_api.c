/* The functions of upstream, set by name. */
#include "loading/ggml_api.h"

#include <stdio.h>
#include <stdlib.h>

struct ggml_api upstream;

enum { OPTIONAL, REQUIRED };
#define UPSTREAM_NAME(name, need) {#name, need},
static const struct {
    const char *name;
    int need;
} functions[] = {UPSTREAM_FUNCTIONS(UPSTREAM_NAME)};
enum { N_FUNCTIONS = sizeof functions / sizeof *functions };
_Static_assert(sizeof upstream == N_FUNCTIONS * sizeof(void *), "struct ggml_api is an array of pointers");

/* The name of function `index`; 0 behind the last. */
EXPORT const char *tailrace_kernels_upstream_name(int index) {
    return index >= 0 && index < N_FUNCTIONS ? functions[index].name : 0;
}

EXPORT bool tailrace_kernels_upstream_required(int index) {
    return index >= 0 && index < N_FUNCTIONS && functions[index].need == REQUIRED;
}

/* Set the address of a function, or 0 where there is none. False where the name is unknown. Not to be called while
 * anything is computed. */
EXPORT bool tailrace_kernels_set_upstream(const char *name, void *function) {
    for (int i = 0; i < N_FUNCTIONS; i++)
        if (!strcmp(functions[i].name, name)) {
            memcpy((char *)&upstream + (size_t)i * sizeof function, &function, sizeof function);
            return true;
        }
    return false;
}

void abort_without(const char *name) {
    fprintf(stderr, "tailrace: llama.cpp has no %s\n", name);
    abort();
}
