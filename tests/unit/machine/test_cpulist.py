"""Lists of CPUs in the kernel's notation."""

from __future__ import annotations

import pytest

from tailrace.machine import cpulist


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8", (0, 1, 2, 3, 8)), ("5", (5,)), ("", ()), ("3,1-2,2", (1, 2, 3))]
)
def test_a_list_is_parsed_and_formatted(text: str, numbers: tuple[int, ...]) -> None:
    assert cpulist.parse(text) == numbers
    assert cpulist.parse(cpulist.format_cpus(numbers).replace("none", "")) == numbers


@pytest.mark.parametrize("text", ["3-1", "a", "1-", "-1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"backwards|invalid literal"):
        cpulist.parse(text)
