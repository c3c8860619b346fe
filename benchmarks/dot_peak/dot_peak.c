/* The peak of the instruction that products of repacked weights consist of: vpdpbusd, in sums that are independent. */
#include <immintrin.h>
#include <stdint.h>

/* Multiply and add `n` times 12 * 64 pairs of bytes. Returns a number that depends on all of them. */
__attribute__((visibility("default"))) int dot_peak(int64_t n) {
    const __m512i pairs = _mm512_set1_epi8(3);
    /* More sums than the latency times the instructions of a cycle, and each in a register: no array. */
    __m512i a = pairs, b = pairs, c = pairs, d = pairs, e = pairs, f = pairs;
    __m512i g = pairs, h = pairs, i = pairs, j = pairs, k = pairs, l = pairs;
    while (n-- > 0)
        /* In assembler: a compiler may take a constant product out of the loop. */
        __asm__("vpdpbusd %12, %12, %0\n\tvpdpbusd %12, %12, %1\n\tvpdpbusd %12, %12, %2\n\t"
                "vpdpbusd %12, %12, %3\n\tvpdpbusd %12, %12, %4\n\tvpdpbusd %12, %12, %5\n\t"
                "vpdpbusd %12, %12, %6\n\tvpdpbusd %12, %12, %7\n\tvpdpbusd %12, %12, %8\n\t"
                "vpdpbusd %12, %12, %9\n\tvpdpbusd %12, %12, %10\n\tvpdpbusd %12, %12, %11"
                : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k),
                  "+v"(l)
                : "v"(pairs));
    const __m512i all = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ i ^ j ^ k ^ l;
    return _mm512_reduce_add_epi32(all);
}
