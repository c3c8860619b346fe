"""benchmarks/first_token.py: set-up's lines become parts that add up to the whole time."""

from __future__ import annotations

from benchmarks.first_token import Line, Part, parts_of


def test_the_steps_of_a_set_up_are_parts() -> None:
    lines = [
        Line(11.0, "setup: making /x ready\n"),
        Line(12.0, "[1/2] llama.cpp: compile it\n"),
        Line(72.0, "       10%  0:10  file 2 of 20\n"),
        Line(110.0, "[2/2] packages: tailrace and what it needs\n"),
        Line(120.0, "setup: ready after 1:50 min\n"),
        Line(123.0, "tailrace listens on http://127.0.0.1:8000\n"),
    ]
    parts = parts_of(10.0, lines)
    assert parts == [Part("begin", 2.0), Part("llama.cpp", 98.0), Part("packages", 10.0), Part("server", 3.0)]
    assert sum(part.seconds for part in parts) == lines[-1].second - 10.0


def test_without_steps_all_is_the_servers_start() -> None:
    assert parts_of(1.0, [Line(2.0, "x\n"), Line(4.0, "tailrace listens on y\n")]) == [Part("server", 3.0)]
