/* See product_counts.h. The first thread of a product counts it. */
#include "products/product_counts.h"

struct product_counts product_counts[N_PRODUCT_KINDS];

/* The counts of a kind (enum product_kind). False where there is no such kind. */
EXPORT bool tailrace_kernels_product_counts(int kind, long *repacked, long *in_file_order, long *all) {
    if (kind < 0 || kind >= N_PRODUCT_KINDS) return false;
    *repacked = product_counts[kind].repacked, *in_file_order = product_counts[kind].in_file_order;
    *all = product_counts[kind].all;
    return true;
}
