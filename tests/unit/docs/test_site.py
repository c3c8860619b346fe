"""The pages and plots that the site is built from."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import docs_plots
from client_matrix import CLIENTS
from docs_outside import outside_resources
from docs_pages import pages, staged_text
from docs_plots import PLOTS, bar, drawn, plots, table

ROOT = Path(__file__).parents[3]


def staged(text: str, document: str = "docs/keys.md") -> str:
    return staged_text(Path(document), text, pages())


def test_links_lead_to_pages() -> None:
    assert staged("[r](../benchmarks/results.md#speculation)") == "[r](results.md#speculation)"
    assert staged("[k](../keys.md)", "docs/recipes/python.md") == "[k](../keys.md)"
    assert staged("[k](docs/keys.md#tls)", "CONTRIBUTING.md") == "[k](keys.md#tls)"
    assert staged("[home](../README.md)") == "[home](index.md)"
    assert staged("[e](https://example.org/) `[c](gone.md)`") == "[e](https://example.org/) `[c](gone.md)`"


def test_a_link_to_source_code_becomes_its_name() -> None:
    assert staged("[the rules](../src/tailrace/settings.py)") == "the rules (`src/tailrace/settings.py`)"


def test_a_link_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"docs/keys\.md: gone\.md leads nowhere"):
        staged("[g](gone.md)")


def test_lists_and_tables_begin_where_github_begins_them() -> None:
    assert staged("Two:\n- a\n- b\n") == "Two:\n\n- a\n- b\n"
    assert staged("<!-- begin -->\n| a |\n|---|\n| b |\n<!-- end -->") == (
        "<!-- begin -->\n\n| a |\n|---|\n| b |\n\n<!-- end -->"
    )


def test_a_pipe_in_a_table_s_code_has_no_backslash() -> None:
    assert staged("| `<\\|a\\|>` | b \\| c |\n") == "| `<|a|>` | b \\| c |\n"


def test_commands_have_no_prompt_where_a_button_copies_them() -> None:
    assert staged("```console\n$ curl \\\n    -d x\n$ ls\n```\n") == "```sh\ncurl \\\n    -d x\nls\n```\n"
    assert staged("```console\n$ ls\na file\n```\n") == "```console\n$ ls\na file\n```\n"


def test_a_plot_s_mark_becomes_its_pictures() -> None:
    shown = staged("<!-- plot: llama-server -->", "docs/performance.md")
    assert "(plots/llama-server.svg#only-light)" in shown
    assert "(plots/llama-server-dark.svg#only-dark)" in shown


def test_every_plot_is_an_svg_with_the_figures_of_its_table() -> None:
    files = plots()
    for name, chart in PLOTS.items():
        made = chart()
        figures = [one for _, row in made.rows for one in row if one]
        for file in (f"{name}.svg", f"{name}-dark.svg"):
            texts = [element.text for element in ElementTree.fromstring(files[file]).iter() if element.text]
            assert all(f"{one.value:g}{made.unit}" in texts for one in figures), file
    assert len(files) == 2 * len(PLOTS)


def test_a_cell_s_figure_and_range_are_read() -> None:
    assert bar("1.75 (1.74 to 1.79)") == docs_plots.Bar(1.75, 1.74, 1.79)
    assert bar("2.9") == docs_plots.Bar(2.9)
    assert bar("") is None


def test_a_table_that_is_gone_is_named() -> None:
    with pytest.raises(ValueError, match=r"no table 9 under 'Against llama-server'"):
        table("Against llama-server", 8)


def test_names_are_escaped_in_plots() -> None:
    chart = docs_plots.Chart("a < b", ["x"], [("<script>", [docs_plots.Bar(1.0)])])
    assert "<script>" not in drawn(chart, "#000", "#000")


def test_every_client_of_the_tests_has_a_recipe() -> None:
    recipes = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "recipes").glob("*.md"))
    headings = {line.removeprefix("## ") for line in recipes.splitlines() if line.startswith("## ")}
    assert {client.title for client in CLIENTS} <= headings


def test_what_a_page_loads_from_another_host_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example/a.css"><link rel="canonical" href="https://docs.example/">'
        '<script src="//cdn.example/b.js"></script><img src="images/c.png"><a href="https://example.org/">d</a>',
        encoding="utf-8",
    )
    (tmp_path / "site.css").write_text("@font-face { src: url(https://fonts.example/e.woff2) }", encoding="utf-8")
    assert outside_resources(tmp_path) == [
        "page.html loads //cdn.example/b.js",
        "page.html loads https://fonts.example/a.css",
        "site.css loads https://fonts.example/e.woff2",
    ]
