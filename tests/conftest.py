"""Settings of all test processes."""

from __future__ import annotations

import os

# NumPy reads it once. Its products in tests are small, and threads that wait for each other take five times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
