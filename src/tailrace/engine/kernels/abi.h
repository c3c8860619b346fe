/* What llama.cpp hands to its CPU kernels: the heads of ggml_compute_params and ggml_tensor. Not a public interface, so
 * loader.py loads the kernels beside known versions alone. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct call {
    int thread, threads;      /* which of how many calls */
    size_t work_size;         /* bytes of memory that all threads share during this operation */
    void *work, *pool;        /* the pool has a counter and a barrier */
};

struct tensor {
    int type;
    void *buffer;
    int64_t sizes[4];
    size_t strides[4];        /* bytes */
    int operation, parameters[16], flags;
    const struct tensor *sources[10];
    void *view_of;
    size_t view_at;
    void *data;
    char name[64];
};

/* llama.cpp's own functions: filled in once, before anything is computed. */
struct theirs {
    bool (*product)(const struct call *, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                    int64_t ldb, void *c, int64_t ldc, int a_type, int b_type, int c_type);
    bool (*tiled)(const struct call *, struct tensor *);
    void (*attention)(const struct call *, struct tensor *);
    void (*pool_set)(void *, int);
    int (*pool_add)(void *, int);
    void (*pool_wait)(void *);
    size_t (*tiled_size)(int threads, struct tensor *); /* bytes of call->work that a product wants besides */
    int (*buffer_usage)(void *buffer);
    void (*buffer_clear)(void *buffer, uint8_t value);
    void *(*buffer_base)(void *buffer);
    size_t (*buffer_size)(void *buffer);
    int (*threads)(void);     /* in the team that computes: OpenMP's; 0 where llama.cpp is built without */
};
extern struct theirs theirs;
void ggml_barrier(void *pool); /* barrier.c */

#define INLINE static inline __attribute__((always_inline))

/* Where a thread's variable is: found once. A library that is loaded at run time calls a function for it, and compilers
 * call it again wherever the variable is used: 5 % of a step behind 3,000 tokens. */
#define OWN(variable)                          \
    __extension__({                            \
        __typeof__(variable) *own_ = &(variable); \
        __asm__("" : "+r"(own_));              \
        own_;                                  \
    })
