/* Splits that a worker computes, over llama.cpp's RPC protocol. */
#pragma once
#include "loading/ggml_api.h"

/* Whether a worker computes there. */
bool is_remote(ggml_backend_t device);

/* Submit a split to its device. */
enum ggml_status submit_split(ggml_backend_t device, struct ggml_cgraph *split);
