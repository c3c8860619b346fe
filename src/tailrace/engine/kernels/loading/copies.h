/* A copy of some bytes of a state, which is made later. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_tensor;

struct copy {
    char *to;         /* 0: to `tensor`, at `offset` */
    const char *from; /* 0: from `tensor`, at `offset` */
    size_t size;
    struct ggml_tensor *tensor; /* on a device; 0: both sides are memory of this process */
    size_t offset;
    bool is_fleeting; /* the next step changes the bytes */
};
