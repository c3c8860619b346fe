"""A replica's settings file: what is written is read as the same values, whatever texts they have."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cluster.settings_file import settings_file
from tailrace.errors import ConfigurationError

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_PLAIN = st.one_of(
    st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False), _TEXTS, st.lists(_TEXTS, max_size=3)
)
_VALUES = st.one_of(_PLAIN, st.dictionaries(_TEXTS, _PLAIN, max_size=3))
_TABLES = st.dictionaries(st.sampled_from(["host", "sampling", "ctx", "aliases", "model"]), _VALUES)


@given(settings=_TABLES, model=_TEXTS, section=_TABLES)
def test_values_come_back_as_they_were(settings: dict[str, Any], model: str, section: dict[str, Any]) -> None:
    read = tomllib.loads(settings_file(settings, model, section))

    assert read == {**settings, "models": {model: section}}


def test_values_that_are_none_are_left_out() -> None:
    assert tomllib.loads(settings_file({"tls_cert": None}, "m", {"alias": None})) == {"models": {"m": {}}}


def test_value_without_a_form_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="sampling"):
        settings_file({}, "m", {"sampling": object()})
