/* Products of weights that lie as the file has them. */
#pragma once
#include "formats.h"
#include "loading/ggml_api.h"

/* Whether llamafile_sgemm computes products of this format with activations that upstream has quantised to
 * `activations`. */
INLINE bool is_computed_in_file_order(enum format format, enum ggml_type activations) {
    return traits_of(format).activation_type == activations;
}
