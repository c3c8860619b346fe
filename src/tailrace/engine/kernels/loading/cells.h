/* The memory of KV caches' cells. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Whether these bytes are of recorded cells of KV cache `owner`. */
bool is_of_cells(int owner, const char *begin, size_t size);
