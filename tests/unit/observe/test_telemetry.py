"""When OpenTelemetry is switched on, and what is said where its packages are missing."""

from __future__ import annotations

import pytest
import structlog

from tailrace.errors import ConfigurationError
from tailrace.observe import telemetry


def test_it_is_off_by_default_and_where_it_is_disabled() -> None:
    assert telemetry.start_export(None, "127.0.0.1", 8000, {}) is None
    assert telemetry.start_export("http://127.0.0.1:1", "127.0.0.1", 8000, {"OTEL_SDK_DISABLED": "true"}) is None


def test_missing_packages_are_an_error_of_the_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_is_installed", lambda: False)
    telemetry.check_installed(None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tailrace\[otel\]'"):
        telemetry.check_installed("http://127.0.0.1:4318")
    with structlog.testing.capture_logs() as logs:
        found = telemetry.start_export(None, "127.0.0.1", 8000, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:4318"})
    assert found is None
    assert [entry["log_level"] for entry in logs] == ["warning"]
