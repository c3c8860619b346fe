"""Whose pages may call."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.server.browsers.origins import LOCAL, AllowedOrigins


def allows(origin: str, *allowed: str) -> bool:
    return AllowedOrigins(allowed).allows(origin.encode("latin-1"))


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:8443",
        "http://127.0.0.1:5173",
        "http://[::1]:3000",
        "http://app.localhost:3000",
        "http://0.0.0.0:8080",
        "https://tauri.localhost",
        "tauri://localhost",
        "app://obsidian.md",
        "vscode-webview://1a2b3c",
        "vscode-file://vscode-app",
        "file://",
    ],
)
def test_apps_of_the_clients_own_machine(origin: str) -> None:
    assert allows(origin, LOCAL)
    assert not allows(origin, "https://chat.example.org")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "http://127.0.0.1.evil.example:3000",
        "http://evil.example#http://localhost",
        "http://192.168.1.2:3000",
        "chrome-extension://abcdef",
        "http://localhost:3000/",
        "http://localhost:99999999",
        "localhost:3000",
        "http://",
        "évil://localhost",
    ],
)
def test_other_pages(origin: str) -> None:
    assert not allows(origin, LOCAL)
    assert allows(origin, "*")


def test_the_settings_own_origins() -> None:
    assert allows("https://chat.example.org", "https://chat.example.org")
    assert allows("https://CHAT.example.org", "https://chat.example.org")
    assert not allows("http://chat.example.org", "https://chat.example.org")
    assert not allows("https://chat.example.org:8443", "https://chat.example.org")
    assert allows("https://chat.example.org:8443", "https://chat.example.org:*")
    assert allows("https://a.example.org", "https://*.example.org")
    assert not allows("https://evilexample.org", "https://*.example.org")
    assert not allows("https://example.org", "https://*.example.org")
    assert allows("chrome-extension://abcdef", "chrome-extension://*")
    assert allows("http://localhost:3000", "https://chat.example.org", LOCAL)


@pytest.mark.parametrize(
    "entry", ["https://chat.example.org/", "chat.example.org", "https://a*b.example", "http://x:y", "https://a b", ""]
)
def test_what_is_no_origin_is_an_error(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="cors_origins"):
        AllowedOrigins([entry])
