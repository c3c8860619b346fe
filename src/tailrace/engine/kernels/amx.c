/* The permission to use AMX tiles (amx.h). */
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx.h"

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA  18

bool tailrace_kernels_amx_usable(void) {
    enum { UNKNOWN, NO, YES };
    static atomic_int known = UNKNOWN;
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer == UNKNOWN) {
#if HAS_AMX
        answer = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 ? YES : NO;
#else
        answer = NO;
#endif
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == YES;
}
