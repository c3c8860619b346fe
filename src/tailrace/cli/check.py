"""``tailrace check``: any server held against the wire rules, as a table, as JSON, or as JUnit's XML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tailrace import __version__
from tailrace.cli import console_output
from tailrace.conformance import runner
from tailrace.conformance.dialects import DIALECTS
from tailrace.conformance.outcome import Severity, Verdict
from tailrace.conformance.registry import RULES
from tailrace.conformance.report import EXIT_NOT_CHECKED, Report, Result
from tailrace.conformance.rule import Rule
from tailrace.conformance.session import Limits
from tailrace.conformance.target import CheckError, InvalidOption, parse
from tailrace.errors import ConfigurationError, TailraceError

#: How a broken rule is called, by its severity.
_BROKEN = {
    Severity.ERROR: "[bold red]FAIL[/bold red]",
    Severity.WARNING: "[yellow]warning[/yellow]",
    Severity.NOTE: "[cyan]note[/cyan]",
}


def check(
    url: Annotated[
        str, typer.Argument(help="The server: its root, or the base URL that clients are given.")
    ] = "http://127.0.0.1:8000",
    dialect: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Check this dialect, there or not: {', '.join(DIALECTS)}; may repeat. [default: all there are]"
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="TAILRACE_API_KEY", help="The server's API key.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask. [default: the first that it lists]")] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - is standard output.")
    ] = None,
    junit_to: Annotated[
        str | None, typer.Option("--junit", metavar="FILE", help="Write the report as JUnit's XML; - as above.")
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; may repeat.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Not this rule; may repeat.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds without anything from the server.")] = 60.0,
    tokens: Annotated[int, typer.Option(min=8, max=4096, help="Longest replies; more for models that think.")] = 32,
    long_prompt: Annotated[
        int, typer.Option(min=16, max=200_000, help="Words of the longest prompt; keep-alives need one of 10 s.")
    ] = 600,
    insecure: Annotated[bool, typer.Option("--insecure", help="Don't verify the server's certificate.")] = False,
    failures: Annotated[bool, typer.Option("--failures", help="Show only what is broken.")] = False,
    list_rules: Annotated[bool, typer.Option("--list", help="List the rules and exit.")] = False,
) -> None:
    """Hold a server against the rules that clients depend on. It sends about a hundred small, real prompts.

    Exit status: 0 nothing broken, 1 a rule that breaks a client, 2 wrong options, 3 only warnings, 4 not checked.
    """
    console = console_output.stdout()
    if list_rules:
        console.print(_rules())
        return
    if json_to == "-" and junit_to == "-":
        raise ConfigurationError("--json and --junit can't both go to standard output")
    limits = Limits(max_tokens=tokens, timeout=timeout, long_prompt_words=long_prompt)
    try:
        target = parse(url, key=key or None, verify=not insecure)
        report = _run(
            target=target, dialects=dialect or (), model=model, limits=limits, only=rule or (), skip=skip or ()
        )
    except InvalidOption as error:
        raise ConfigurationError(str(error)) from error
    except CheckError as error:
        console_output.stderr().print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(EXIT_NOT_CHECKED) from error
    for where, data in ((json_to, report.json(__version__)), (junit_to, report.junit())):
        if where is not None:
            _write(where, data)
    if "-" not in (json_to, junit_to):
        _show(console, report, failures=failures)
    raise typer.Exit(report.exit_status)


def _run(**options: object) -> Report:
    columns = (SpinnerColumn(), TextColumn("{task.completed}/{task.total} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("looking what is there", total=None)
        planned = runner.plan(**options)  # type: ignore[arg-type]  # one dict holds options of several types
        progress.update(task, total=len(planned.rules))
        done = 0

        def before(rule: Rule) -> None:
            nonlocal done
            progress.update(task, completed=done, description=rule.title)
            done += 1

        return runner.run(planned, before)


def _write(where: str, data: bytes) -> None:
    if where == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(where).write_bytes(data)
    except OSError as error:
        raise TailraceError(f"the report can't be written: {where}: {error.strerror or error}") from error


def _show(console: Console, report: Report, *, failures: bool) -> None:
    console.print(f"{escape(report.url)}, model {escape(report.model)}")
    for theme in dict.fromkeys(result.theme for result in report.results):
        results = [
            result
            for result in report.results
            if result.theme == theme and (not failures or result.verdict is Verdict.FAIL)
        ]
        if results:
            console.print(_table(theme, results))
            console.print()
    console.print(_sentence(report))


def _table(theme: str, results: list[Result]) -> Table:
    table = Table(title=theme, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=False)
    table.add_column("wire", justify="right", style="dim", no_wrap=True)
    # As wide in every theme's table.
    table.add_column("rule", no_wrap=True, min_width=max(map(len, RULES)))
    table.add_column("verdict", no_wrap=True, min_width=len("not seen"))
    table.add_column("what has to hold, and what was seen", overflow="fold")
    for result in results:
        table.add_row(str(result.wire or ""), result.id, _verdict(result), _seen(result))
    return table


def _verdict(result: Result) -> str:
    if result.verdict is Verdict.PASS:
        return "[green]pass[/green]"
    if result.verdict is Verdict.NOT_OBSERVED:
        return "[dim]not seen[/dim]"
    return _BROKEN[result.severity]


def _seen(result: Result) -> str:
    seen = escape(result.seen)
    if result.verdict is Verdict.FAIL:
        return f"{escape(result.title)}\nseen: {seen}\nbreaks: {escape(result.breaks)}"
    return f"{escape(result.title)}: [dim]{seen}[/dim]"


def _sentence(report: Report) -> str:
    """The result in one line, and the rules that were left out in another."""
    counted = report.summary
    parts = [f"{counted['passed']} passed", f"{counted['errors']} failed", f"{counted['warnings']} warnings"]
    parts += [f"{counted['notes']} notes", f"{counted['not_seen']} not seen"]
    lines = [f"{', '.join(parts)}, in {report.seconds:.0f} s"]
    absent = [name for name, state in report.dialects.items() if state == "not there"]
    if absent:
        lines.append(f"not there, and so not checked: {', '.join(absent)}")
    return "\n".join(lines)


def _rules() -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("wire", "rule", "dialect", "severity", "what"):
        table.add_column(name, no_wrap=name != "what", justify="right" if name == "wire" else "left")
    for rule in RULES.values():
        table.add_row(str(rule.wire or ""), rule.id, rule.dialect, rule.severity, escape(rule.title))
    return table
