/* Each function of simd.h's float vectors over arrays, for test_float_vectors.py. */
#include "simd.h"

EXPORT int probe_lanes(void) { return VF_LANES; }

#define BINARY(NAME)                                                                                                   \
    EXPORT void probe_##NAME(const float *a, const float *b, float *to, int n) {                                       \
        for (int i = 0; i < n; i += VF_LANES) vf_storeu(to + i, vf_##NAME(vf_loadu(a + i), vf_loadu(b + i)));          \
    }
BINARY(add)
BINARY(sub)
BINARY(mul)
BINARY(div)
BINARY(max)
BINARY(min)

#define UNARY(NAME)                                                                                                    \
    EXPORT void probe_##NAME(const float *a, float *to, int n) {                                                       \
        for (int i = 0; i < n; i += VF_LANES) vf_store(to + i, vf_##NAME(vf_load(a + i)));                             \
    }
UNARY(abs)
UNARY(sqrt)
UNARY(round)
UNARY(exp2)
UNARY(log)
UNARY(exponent)
UNARY(mantissa)

#define TERNARY(NAME)                                                                                                  \
    EXPORT void probe_##NAME(const float *a, const float *b, const float *c, float *to, int n) {                       \
        for (int i = 0; i < n; i += VF_LANES)                                                                          \
            vf_storeu(to + i, vf_##NAME(vf_loadu(a + i), vf_loadu(b + i), vf_loadu(c + i)));                           \
    }
TERNARY(fma)
TERNARY(fnma)

#define LOAD(NAME, BYTES)                                                                                              \
    EXPORT void probe_##NAME(const uint8_t *a, float *to, int n) {                                                     \
        for (int i = 0; i < n; i += VF_LANES) vf_storeu(to + i, vf_load_##NAME(a + BYTES * i));                        \
    }
LOAD(f16, 2)
LOAD(bf16, 2)

/* 1 where the comparison holds, else 0. */
#define COMPARE(NAME)                                                                                                  \
    EXPORT void probe_##NAME(const float *a, const float *b, float *to, int n) {                                       \
        for (int i = 0; i < n; i += VF_LANES) {                                                                        \
            const vm m = vf_##NAME(vf_loadu(a + i), vf_loadu(b + i));                                                  \
            vf_storeu(to + i, vf_select(m, vf_set1(1), vf_zero()));                                                    \
        }                                                                                                              \
    }
COMPARE(lt)
COMPARE(le)
COMPARE(gt)

EXPORT void probe_is_nan(const float *a, float *to, int n) {
    for (int i = 0; i < n; i += VF_LANES) vf_storeu(to + i, vf_zero_where(vf_is_nan(vf_loadu(a + i)), vf_set1(1)));
}

/* The sum and the maximum of one vector. */
EXPORT void probe_reductions(const float *a, float *to) {
    to[0] = vf_reduce_add(vf_loadu(a));
    to[1] = vf_reduce_max(vf_loadu(a));
}

/* a where the bit of the lane is set in either number, else b; whether any bit is set in both. */
EXPORT bool probe_select_bits(const float *a, const float *b, uint32_t some, uint32_t others, float *to) {
    const vm m = vm_or(vm_from_bits(some), vm_from_bits(others));
    vf_storeu(to, vf_select(m, vf_loadu(a), vf_loadu(b)));
    return vm_any(m);
}

/* Copies the first n numbers; the vector's other lanes are added to `rest`. */
EXPORT void probe_copy_first(const float *a, float *to, int n, float *rest) {
    const vf x = vf_load_first(a, n);
    vf_store_first(to, n, x);
    vf_storeu(rest, vf_add(vf_loadu(rest), x));
}

/* Four sums, of VF_LANES numbers each. */
EXPORT void probe_sums(const float *a, float *to) {
    vf x[4];
    for (int i = 0; i < 4; i++) x[i] = vf_loadu(a + i * VF_LANES);
    vf_store_sums_x4(to, x[0], x[1], x[2], x[3]);
}

EXPORT void probe_transpose(const float *a, float *to) {
    vf m[VF_LANES];
    for (int i = 0; i < VF_LANES; i++) m[i] = vf_loadu(a + i * VF_LANES);
    vf_transpose(m);
    for (int i = 0; i < VF_LANES; i++) vf_storeu(to + i * VF_LANES, m[i]);
}

EXPORT void probe_every_4th(const float *a, float *to) {
    vf x[4];
    vf_load_every_4th(a, x);
    for (int i = 0; i < 4; i++) vf_storeu(to + i * VF_LANES, x[i]);
}
