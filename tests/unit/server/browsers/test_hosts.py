"""Which names of a server its clients may use, and which could be names of a web page."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.server.browsers.hosts import AllowedHosts, host_name, is_loopback


def allows(header: str, *allowed: str, listening: str = "127.0.0.1", own: str = "box") -> bool:
    return AllowedHosts(listening, allowed, own).allows(header.encode("latin-1"))


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8000", "localhost"),
        ("example.org.", "example.org"),
        ("example.org.:80", "example.org"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("a:b", "a:b"),
    ],
)
def test_host_name(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "localhost:8000",
        "LocalHost.:8000",
        "app.localhost",
        "127.0.0.1:8000",
        "127.1.2.3",
        "192.168.1.20:8000",
        "203.0.113.7",
        "[::1]:8000",
        "[2001:db8::7]",
        "0.0.0.0:8000",
        "box:8000",
        "BOX",
        "box.local:8000",
        "host.docker.internal:8000",
        "host.containers.internal",
        "",
    ],
)
def test_names_of_this_machine_and_addresses(header: str) -> None:
    assert allows(header)


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "evil.example:8000",
        "EVIL.EXAMPLE.",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "evil.example:localhost",
        "localhost@evil.example",
        "evillocalhost",
        "notbox",
        "box.evil.example",
        "other.local",
        "internal.evil.example",
        "127.0.0.1:80:evil.example",
        "[::1].evil.example.",
        "[::1]evil.example",
        "[localhost]",
        "[::1",
        "localhost, evil.example",
        "2130706433",
        "0x7f.0.0.1",
        "a b",
        "évil.example",
    ],
)
def test_names_that_a_page_could_have(header: str) -> None:
    assert not allows(header)


def test_a_container_network_reaches_a_server_that_listens_beyond_this_machine() -> None:
    for name in (
        "tailrace",
        "llm-server:8000",
        "my_service",
        "tailrace.default.svc.cluster.local",
        "llm.default.svc",
        "printer.local",
        "nas.lan",
    ):
        assert allows(name, listening="0.0.0.0")
        assert not allows(name)
    assert not allows("evil.example", listening="0.0.0.0")
    assert allows("llm.example.org:8000", listening="llm.example.org")


def test_the_setting_adds_names() -> None:
    assert allows("llm.example.org:443", "llm.example.org")
    assert not allows("a.llm.example.org", "llm.example.org")
    assert allows("a.b.example.org", "*.example.org")
    assert not allows("example.org", "*.example.org")
    assert not allows("evilexample.org", "*.example.org")
    assert allows("evil.example", "*")
    assert allows("LLM.example.org", "llm.Example.ORG:8000")


@pytest.mark.parametrize("entry", ["https://llm.example.org", "a b", "llm.*.org", "*evil.example", "a@b", "."])
def test_what_is_no_name_is_an_error(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed_hosts"):
        AllowedHosts("127.0.0.1", [entry], "box")


def test_many_names_are_checked_and_not_all_remembered() -> None:
    hosts = AllowedHosts("127.0.0.1", [], "box")
    for number in range(1000):
        assert hosts.allows(b"10.0.%d.%d" % (number // 250, number % 250))
        assert not hosts.allows(b"evil%d.example" % number)
    assert len(hosts._remembered) <= 256


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("llm.example.org", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
