"""llama.cpp's functions that the kernels replace or call, as ``loading/ggml_api.h`` lists them."""

from __future__ import annotations

import re

from tailrace.engine.kernels.build import SOURCES

_LIST = re.findall(
    r"^    X\((\w+), (REQUIRED|OPTIONAL)\)",
    (SOURCES / "loading" / "ggml_api.h").read_text(encoding="utf-8"),
    re.MULTILINE,
)
#: Without one of these, the kernels aren't used.
NEEDED = [name for name, need in _LIST if need == "REQUIRED"]
#: Without one of these, llama.cpp computes what needs it.
OPTIONAL = [name for name, need in _LIST if need == "OPTIONAL"]
