/* The inputs of a pass on their way to workers.
 *
 * Upstream's scheduler waits before each input until the worker's thread has sent all that came before, and after it until
 * it is sent: twelve times in a step, with a switch between threads each time. But one thread sends all messages to a
 * worker, in their order, and the worker computes in that order. So nothing has to be waited for until results are read. */
#pragma once
#include "loading/ggml_api.h"

/* This thread has the scheduler compute a graph, until `end_inputs`. */
void begin_inputs(ggml_backend_sched_t scheduler);
void end_inputs(void);

/* Send `data` to the worker that `copy` is for, without waiting, as `tensor`, which is `copy` or has another name. False
 * where no graph is computed, or the copy is no worker's: nothing was sent. */
bool send_input(const struct ggml_tensor *copy, struct ggml_tensor *tensor, const void *data, size_t offset,
                size_t size);
