/* The permission to use tiles (amx.h). */
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx.h"

#define ASK_FOR_STATE 0x1023 /* arch_prctl's ARCH_REQ_XCOMP_PERM */
#define TILES 18             /* the state that tiles are, among those of XSAVE */

bool amx_allowed(void) {
    static atomic_int known; /* 0: nobody has asked; else 1 for no, 2 for yes */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (!answer) {
        answer = HAS_AMX && syscall(SYS_arch_prctl, ASK_FOR_STATE, TILES) == 0 ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}
