"""The names of weight formats."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.models.weight_formats import WEIGHT_FORMATS, find_weight_format


def test_formats_are_found_in_any_case_and_an_unknown_name_lists_them() -> None:
    assert find_weight_format("q4_k_m") is WEIGHT_FORMATS["Q4_K_M"]
    with pytest.raises(ConfigurationError, match="near-lossless, fast or one of Q4_0, "):
        find_weight_format("Q9")
