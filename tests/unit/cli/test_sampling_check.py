"""A wrong sampling parameter of the settings is found before the server starts."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.cli.sampling_check import check_sampling
from tailrace.errors import ConfigurationError


def test_ollamas_options_are_parameters() -> None:
    check_sampling({})
    check_sampling({"temperature": 0.2, "top_k": 40.0, "stop": ["a"], "num_predict": 7, "min_p": 0.1})


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"temprature": 1.0}, "sampling.temprature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 7}, "top_p"),
        ({"tfs_z": 0.5}, "tfs_z"),
    ],
)
def test_a_wrong_one_is_named(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        check_sampling(parameters)


def test_the_table_of_a_model_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^\[models.a\]: 'sampling.temprature'"):
        check_sampling({"temprature": 1.0}, "[models.a]")
