"""Where ``tailrace check`` takes a server to be, from what people write."""

from __future__ import annotations

import pytest

from tailrace.conformance.dialects import ANTHROPIC, OLLAMA, OPENAI
from tailrace.conformance.target import CheckError, parse


@pytest.mark.parametrize(
    ("url", "shown", "root"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", ""),
        ("localhost:8000/", "http://localhost:8000/v1", ""),
        ("http://host/v1/", "http://host/v1", ""),
        ("https://host/prefix/v1", "https://host/prefix/v1", "/prefix"),
        ("https://host:8443/prefix", "https://host:8443/prefix/v1", "/prefix"),
        ("http://[::1]:8000", "http://[::1]:8000/v1", ""),
    ],
)
def test_a_root_and_a_base_url_mean_the_same_server(url: str, shown: str, root: str) -> None:
    target = parse(url)
    assert (target.url, target.root) == (shown, root)
    assert OPENAI.path(target) == f"{root}/v1/chat/completions"
    assert ANTHROPIC.path(target) == f"{root}/v1/messages"
    assert OLLAMA.path(target) == f"{root}/api/chat"


def test_a_base_url_without_v1_is_taken_as_it_is() -> None:
    target = parse("https://host/api/paas").with_api("/api/paas")
    assert OPENAI.path(target) == "/api/paas/chat/completions"


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "http://", "http://host:port", "http://host/v1?key=1", "http://user:secret@host", "http://[::1"],
)
def test_what_is_no_servers_address_is_refused(url: str) -> None:
    with pytest.raises(CheckError) as refused:
        parse(url)
    assert "secret" not in str(refused.value)


def test_the_key_is_in_no_representation() -> None:
    target = parse("http://host", key="s3cret")
    assert "s3cret" not in f"{target} {target!r} {target.url}"


@pytest.mark.parametrize("key", ["line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(CheckError) as refused:
        parse("http://host", key=key)
    assert key not in str(refused.value)
