"""Where a redirect may lead, and what goes with it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from certificates import make_certificate
from local_pulls import LocalPulls, files_below
from model_files import tiny_gguf
from pull_servers import Storage
from tailrace.errors import PullFailed
from tailrace.models.pulls.remote_address import Reach, reach_of
from tailrace.models.pulls.transport import Transport


@pytest.fixture
def _model(pulls: LocalPulls) -> None:
    pulls.hub.add("model.gguf", tiny_gguf())


def refusal(pulls: LocalPulls, text: str = "hf:org/repo") -> str:
    with pytest.raises(PullFailed) as caught:
        pulls.pull(text)
    assert caught.value.reason == "untrusted", caught.value
    assert not any("/blobs/" in name and not name.endswith(".incomplete") for name in files_below(pulls.cache))
    return str(caught.value)


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("8.8.8.8", Reach.INTERNET),
        ("2001:4860:4860::8888", Reach.INTERNET),
        ("10.1.2.3", Reach.NETWORK),
        ("192.168.1.1", Reach.NETWORK),
        ("100.64.0.1", Reach.NETWORK),
        ("fd00::1", Reach.NETWORK),
        ("::ffff:10.1.2.3", Reach.NETWORK),
        ("64:ff9b::a01:203", Reach.NETWORK),
        ("127.0.0.1", Reach.MACHINE),
        ("::1", Reach.MACHINE),
        ("0.0.0.0", Reach.MACHINE),
        ("::ffff:127.0.0.1", Reach.MACHINE),
        ("169.254.169.254", Reach.LINK),
        ("fe80::1%eth0", Reach.LINK),
        ("::ffff:169.254.169.254", Reach.LINK),
    ],
)
def test_how_near_an_address_is(address: str, reach: Reach) -> None:
    assert reach_of(address) == reach


@pytest.mark.usefixtures("_model")
def test_the_token_does_not_follow_a_redirect_to_another_server(
    pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pulls.pull("hf:org/repo")
    assert {seen.headers.get("authorization") for seen in pulls.hub.seen} == {"Bearer hf_secret"}
    assert {seen.headers.get("authorization") for seen in pulls.storage.seen} == {None}


@pytest.mark.usefixtures("_model")
def test_the_token_does_not_come_back_by_a_second_redirect(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pulls.storage.behaviour.redirect = lambda path: f"{pulls.hub.url}/org/repo/resolve/nothing"
    with pytest.raises(PullFailed):
        pulls.pull("hf:org/repo")
    assert pulls.hub.seen[-1].path.endswith("nothing")
    assert "authorization" not in pulls.hub.seen[-1].headers


@pytest.mark.usefixtures("_model")
def test_a_loop(pulls: LocalPulls) -> None:
    pulls.storage.behaviour.redirect = lambda path: path
    assert "without an end" in refusal(pulls)


@pytest.mark.usefixtures("_model")
def test_redirects_that_never_end(pulls: LocalPulls) -> None:
    pulls.storage.behaviour.redirect = lambda path: path + "x"
    assert "without an end" in refusal(pulls)
    assert len(pulls.storage.seen) < 20


@pytest.mark.usefixtures("_model")
@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "javascript:x"])
def test_what_is_no_address_of_the_web(pulls: LocalPulls, target: str) -> None:
    pulls.storage.behaviour.redirect = lambda path: target
    refusal(pulls)


@pytest.mark.usefixtures("_model")
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "http://[fe80::1]/x"])
def test_a_server_of_credentials_in_a_cloud(pulls: LocalPulls, target: str) -> None:
    pulls.storage.behaviour.redirect = lambda path: target
    assert "an address of this machine or its network" in refusal(pulls)


def test_a_server_of_the_internet_does_not_lead_inside(pulls: LocalPulls) -> None:
    """The storage counts as a server of the internet, and this machine's name as what it is."""
    inside = Storage()
    transport = Transport(resolve=lambda host: ["8.8.8.8"] if host == "127.0.0.1" else ["127.0.0.1"])
    pulls.storage.behaviour.redirect = lambda path: inside.url.replace("127.0.0.1", "localhost") + path
    with (
        inside.running(),
        pytest.raises(PullFailed, match="redirects to localhost"),
        transport.open(pulls.storage.url, {}),
    ):
        pass
    transport.close()
    assert inside.seen == []


@pytest.mark.usefixtures("_model")
def test_a_name_that_has_another_address_at_the_second_look(pulls: LocalPulls) -> None:
    """The connection's own address counts, too: nothing that such a server sends is used."""
    pulls.resolve = lambda host: ["8.8.8.8"]
    assert "an address of this machine" in refusal(pulls)


def test_https_never_leads_to_http(pulls: LocalPulls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secure = Storage()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    secure.behaviour.redirect = lambda path: pulls.storage.url + path
    address = secure.url.replace("http:", "https:")
    transport = Transport()
    with secure.running(), pytest.raises(PullFailed, match="from https to http"), transport.open(address, {}):
        pass
    transport.close()
    assert (len(secure.seen), pulls.storage.seen) == (1, [])
