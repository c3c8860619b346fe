"""Which engines compute at the same time on the same cores."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tailrace.shared_memory.cores_page import ANY_CORES, CoresPage, cores_of
from tailrace.shared_memory.memory_file import create_page


@pytest.fixture
def page() -> Iterator[CoresPage]:
    fd = create_page()
    page = CoresPage(fd)
    os.close(fd)
    yield page
    page.close()


def test_engines_that_compute_have_places_in_the_order_of_their_numbers(page: CoresPage) -> None:
    for number in (7, 2, 200):
        page.show(number, ANY_CORES)
    assert [page.position(number, ANY_CORES) for number in (2, 7, 200)] == [(0, 3), (1, 3), (2, 3)]
    page.show(2, 0)
    assert [page.position(number, ANY_CORES) for number in (7, 200)] == [(0, 2), (1, 2)]
    page.show(200, 0)
    assert page.position(7, ANY_CORES) == (0, 1)


def test_engines_of_other_nodes_have_other_cores(page: CoresPage) -> None:
    page.show(1, cores_of(0))
    page.show(2, cores_of(1))
    assert [page.position(1, cores_of(0)), page.position(2, cores_of(1))] == [(0, 1), (0, 1)]
    page.show(3, cores_of(1))
    assert [page.position(2, cores_of(1)), page.position(3, cores_of(1))] == [(0, 2), (1, 2)]
    page.show(4, cores_of(None))
    assert page.position(1, cores_of(0)) == (0, 2), "an engine without a node uses all cores"
    assert page.position(4, cores_of(None)) == (3, 4)


def test_an_engine_without_a_place_shows_nothing(page: CoresPage) -> None:
    page.show(-1, ANY_CORES)
    page.show(3, ANY_CORES)
    assert page.position(3, ANY_CORES) == (0, 1)
