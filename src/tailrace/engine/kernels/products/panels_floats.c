/* The panel functions of formats of 16-bit floats: see panels.h. */
#include "products/dots_bf16.h"
#include "products/panel_functions.h"

FLOAT_FORMATS(PANEL_FUNCTIONS)

#if HAS_AVX512
static const struct panel_functions functions_dots = {round_to_pairs,
                                                      {dots_panel_CACHE, dots_panel_MEMORY, dots_panel_MEMORY}};
const struct panel_functions *functions_of_dots(void) {
    return __builtin_cpu_supports("avx512bf16") ? &functions_dots : 0;
}
#else
const struct panel_functions *functions_of_dots(void) { return 0; }
#endif
