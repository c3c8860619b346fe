/* How the threads of a product share its rows. */
#pragma once

/* Bytes of weights from which threads take work chunks from a counter instead of fixed shares. Chunks cost two
 * barriers. They pay where a thread may lose its core for a while (the HTTP process needs one, too), or where cores
 * differ in speed. */
#define MIN_CHUNKED_BYTES (1 << 20)
