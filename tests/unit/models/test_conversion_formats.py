"""The names of weight formats."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.models.conversion_formats import CONVERSION_FORMATS, find_conversion_format


def test_formats_are_found_in_any_case_and_an_unknown_name_lists_them() -> None:
    assert find_conversion_format("q4_k_m") is CONVERSION_FORMATS["Q4_K_M"]
    with pytest.raises(ConfigurationError, match="near-lossless, fast or one of Q4_0, "):
        find_conversion_format("Q9")
