/* How many matrix products this process has computed, and how. Tests and workers report it. */
#pragma once
#include "loading/ggml_api.h"

enum product_kind { DENSE, EXPERTS, N_PRODUCT_KINDS };

struct product_counts {
    long repacked, in_file_order; /* computed by the kernels */
    long all;                     /* with those that upstream computes */
};
extern struct product_counts product_counts[N_PRODUCT_KINDS];
