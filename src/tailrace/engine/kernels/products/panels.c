/* The functions of each format: see panels.h. */
#include "products/panels.h"
#include "products/repacked_floats.h"

int64_t act_block_bytes(enum format format) {
    return has_floats(format) ? FLOAT_ACT_BYTES : is_super_block(format) ? super_act_bytes(format) : BLOCK_ACT_BYTES;
}

/* panels_blocks.c, panels_super_blocks.c and panels_floats.c define them. */
#define DECLARE(name, ...) extern const struct panel_functions functions_##name;
FORMATS(DECLARE)
#undef DECLARE
/* The functions of BF16 on a CPU that multiplies pairs of bf16; null on any other. */
const struct panel_functions *functions_of_dots(void);

const struct panel_functions *panel_functions_of(enum format format) {
    if (format == BF16 && functions_of_dots()) return functions_of_dots();
    switch (format) {
#define FUNCTIONS_OF(name, ...)                                                                                        \
    case name: return &functions_##name;
        FORMATS(FUNCTIONS_OF)
    }
    __builtin_unreachable();
}
