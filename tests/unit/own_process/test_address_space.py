"""A process can't take more memory than ``limit_growth`` leaves to it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from tailrace.own_process.address_space import resident_memory

_PROGRAM = """
import mmap
from tailrace.own_process.address_space import limit_growth

limit_growth(64_000_000, final=False)
mmap.mmap(-1, 16_000_000)
try:
    mmap.mmap(-1, 128_000_000)
except OSError:
    print("refused")
limit_growth(256_000_000)
mmap.mmap(-1, 128_000_000)
try:
    limit_growth(1_000_000_000)
except ValueError:
    print("final")
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other kernels don't enforce the limit")


def test_more_memory_is_refused_until_the_limit_is_raised() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True, check=True)
    # root may raise a final limit, too.
    assert done.stdout in (("refused\n", "refused\nfinal\n") if os.geteuid() == 0 else ("refused\nfinal\n",))


def test_resident_memory_grows_with_what_is_written() -> None:
    # Pages of its own: `bytearray` may get freed memory of this process that is resident already.
    with mmap.mmap(-1, 64_000_000) as data:
        before = resident_memory()
        data.write(b"x" * len(data))
        assert resident_memory() - before > 50_000_000
