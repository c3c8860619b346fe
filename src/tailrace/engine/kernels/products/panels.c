/* The functions of each format: see panels.h. */
#include "products/panels.h"
#include "products/repacked_tiles.h"

int64_t act_block_bytes(enum format format) {
    return is_super_block(format) ? super_act_bytes(format) : BLOCK_ACT_BYTES;
}

/* panels_blocks.c and panels_super_blocks.c define them. */
#define DECLARE(name, ...) extern const struct panel_functions functions_##name;
FORMATS(DECLARE)
#undef DECLARE

const struct panel_functions *panel_functions_of(enum format format) {
    switch (format) {
#define FUNCTIONS_OF(name, ...)                                                                                        \
    case name: return &functions_##name;
        FORMATS(FUNCTIONS_OF)
    }
    __builtin_unreachable();
}
