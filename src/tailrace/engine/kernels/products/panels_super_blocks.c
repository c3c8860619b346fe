/* The panel functions of formats of super-blocks: see panels.h. */
#include "products/panel_functions.h"

SUPER_FORMATS(PANEL_FUNCTIONS)
