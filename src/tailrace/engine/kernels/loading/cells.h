/* The memory of KV caches' cells. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct ggml_tensor;

/* Whether these bytes are of recorded cells of KV cache `owner`, in this process's memory. */
bool is_of_cells(int owner, const char *begin, size_t size);

/* Whether the tensor has recorded cells of KV cache `owner` on a device, or is a view of one that has. */
bool is_on_device(int owner, const struct ggml_tensor *tensor);
