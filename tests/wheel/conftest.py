"""The wheel of ``make wheel``: collected by ``make test-wheel`` alone, which takes minutes."""

from __future__ import annotations

import os

if "TAILRACE_TEST_WHEEL" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
