/* The panel functions of formats of blocks of 32 weights: see panels.h. */
#include "products/panel_functions.h"

BLOCK_FORMATS(PANEL_FUNCTIONS)
