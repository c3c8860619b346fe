"""The report of a check: its counts and exit status, as JSON or as JUnit's XML. ``cli/check.py`` prints the table."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec

from tailrace.conformance.outcome import Severity, Verdict

#: Exit statuses; 2 is a wrong command line.
EXIT_OK, EXIT_ERRORS, EXIT_WARNINGS, EXIT_NOT_CHECKED = 0, 1, 3, 4


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one rule: the rule's own fields, the verdict and the observation (``seen``)."""

    id: str
    wire: int | None
    title: str
    theme: str
    dialect: str
    severity: Severity
    verdict: Verdict
    seen: str
    breaks: str
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One check of one server."""

    url: str
    model: str
    started: str  #: RFC 3339
    seconds: float
    dialects: dict[str, str]  #: name → checked, not there, or not asked for
    results: list[Result]

    def count(self, verdict: Verdict, severity: Severity | None = None) -> int:
        """The number of rules with that verdict (and that severity)."""
        return sum(
            result.verdict is verdict and (severity is None or result.severity is severity) for result in self.results
        )

    @property
    def exit_status(self) -> int:
        """1 for a broken rule of severity error, 3 for warnings alone, 0 otherwise."""
        if self.count(Verdict.FAIL, Severity.ERROR):
            return EXIT_ERRORS
        return EXIT_WARNINGS if self.count(Verdict.FAIL, Severity.WARNING) else EXIT_OK

    @property
    def summary(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "passed": self.count(Verdict.PASS),
            "errors": self.count(Verdict.FAIL, Severity.ERROR),
            "warnings": self.count(Verdict.FAIL, Severity.WARNING),
            "notes": self.count(Verdict.FAIL, Severity.NOTE),
            "not_seen": self.count(Verdict.NOT_OBSERVED),
        }

    def json(self, version: str) -> bytes:
        """The report as JSON, indented; ``version`` is the checker's."""
        document = {"tailrace": version, **msgspec.to_builtins(self)}
        document["summary"] = self.summary
        document["exit_status"] = self.exit_status
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

    def junit(self) -> bytes:
        """The report as JUnit's XML, one suite per theme. Broken notes, and rules not seen, are skipped cases."""
        root = ElementTree.Element("testsuites", name="tailrace check", time=f"{self.seconds:.3f}")
        for theme in dict.fromkeys(result.theme for result in self.results):
            results = [result for result in self.results if result.theme == theme]
            failures = [result for result in results if _fails(result)]
            skipped = [result for result in results if result.verdict is not Verdict.PASS and not _fails(result)]
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                name=theme,
                tests=str(len(results)),
                failures=str(len(failures)),
                skipped=str(len(skipped)),
                errors="0",
                time=f"{sum(result.seconds for result in results):.3f}",
                timestamp=self.started,
                hostname=self.url,
            )
            for result in results:
                case = ElementTree.SubElement(
                    suite, "testcase", classname=result.dialect, name=result.id, time=f"{result.seconds:.3f}"
                )
                if _fails(result):
                    failure = ElementTree.SubElement(case, "failure", type=result.severity, message=result.seen)
                    failure.text = f"{result.title}\nseen: {result.seen}\nbreaks: {result.breaks}"
                elif result.verdict is not Verdict.PASS:
                    ElementTree.SubElement(case, "skipped", message=f"{result.verdict}: {result.seen}")
        ElementTree.indent(root)
        data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        return data + b"\n"


def _fails(result: Result) -> bool:
    return result.verdict is Verdict.FAIL and result.severity is not Severity.NOTE
