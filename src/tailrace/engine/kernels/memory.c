/* Memory for what llama.cpp computes with (KV cache, activations, weights that aren't a file's pages), in the place of its
 * own: in huge pages where the kernel gives them to those that ask (transparent_hugepage: madvise). A step reads all of
 * the KV cache, and with small pages it pays for a look at the page table every 10 cells, twice as dear in a virtual machine:
 * eight contexts of 1,000 tokens of the starter model took 20.5 ms a step and take 18.7.
 *
 * And what is to be all zeros isn't written: its pages go back to the kernel, which makes zeros of what is touched again. So
 * a large KV cache costs memory where it has cells, and is there at once (16,384 cells of the starter model took 130 to
 * 390 ms while everybody waited). One up to TAKEN is, in whole: it is made when a model is loaded, and a page that is touched for the
 * first time then holds nobody up later. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "abi.h"

#define HUGE ((size_t)2 << 20)
#define SMALL 64 /* llama.cpp's own alignment */
#define TAKEN ((size_t)288 << 20) /* llama/memory.py's cells for the start, and what is added to them */
#define PLACES 64

/* Large memory that was given out here, in whole huge pages: nobody else's is anything's to give back. */
static struct {
    char *from, *till;
} large[PLACES];
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static void replace(const char *before, char *from, size_t size) {
    pthread_mutex_lock(&guard);
    for (int i = 0; i < PLACES; i++)
        if (large[i].from == before) {
            large[i].from = from;
            large[i].till = from + size;
            break;
        }
    pthread_mutex_unlock(&guard);
}

static bool is_large(const char *from, size_t size) {
    bool found = false;
    pthread_mutex_lock(&guard);
    for (int i = 0; i < PLACES; i++) found |= large[i].from && large[i].from <= from && from + size <= large[i].till;
    pthread_mutex_unlock(&guard);
    return found;
}

void *ggml_aligned_malloc(size_t size) {
    void *memory = 0;
    const bool big = size >= 2 * HUGE;
    if (!size || posix_memalign(&memory, big ? HUGE : SMALL, size)) return 0;
    if (!big) return memory;
    madvise(memory, size, MADV_HUGEPAGE); /* Refused or not, it is memory. */
    replace(0, memory, size);
    return memory;
}

void ggml_aligned_free(void *memory, size_t size) {
    (void)size;
    if (memory) replace(memory, 0, 0);
    free(memory);
}

void ggml_backend_buffer_clear(void *buffer, uint8_t value) {
    const size_t size = theirs.buffer_size(buffer), whole = size / HUGE * HUGE;
    char *base = size ? theirs.buffer_base(buffer) : 0;
    const bool aligned = (uintptr_t)base % HUGE == 0;
    /* Locked memory stays, and is written. */
    if (value || !whole || !aligned || !is_large(base, size) || madvise(base, whole, MADV_DONTNEED)) {
        theirs.buffer_clear(buffer, value);
        return;
    }
    memset(base + whole, 0, size - whole);
#ifdef MADV_POPULATE_WRITE
    if (size <= TAKEN) madvise(base, whole, MADV_POPULATE_WRITE); /* Older kernels refuse: then pages come when they are touched. */
#endif
}
