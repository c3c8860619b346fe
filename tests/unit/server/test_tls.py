"""Files that can't be used for TLS are named, and change nothing while the server runs."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from certificates import make_certificate, trusting
from tailrace.errors import ConfigurationError
from tailrace.server.tls import TlsCertificate, certificate
from tailrace.settings import Settings


def subject(context: ssl.SSLContext, trusted: Path) -> str:
    """The common name that a client sees, which trusts one certificate."""
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = trusting(trusted).wrap_bio(client_in, client_out, server_hostname="localhost")
    server = context.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(6):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        server_in.write(client_out.read())
        client_in.write(server_out.read())
    found: Any = client.getpeercert()
    # Each attribute of the name is a tuple of pairs.
    return next(str(value) for attributes in found["subject"] for name, value in attributes if name == "commonName")


def settings(cert: Path | None, key: Path | None) -> Settings:
    return Settings(tls_cert=None if cert is None else str(cert), tls_key=None if key is None else str(key))


def test_without_files_there_is_no_tls() -> None:
    assert certificate(settings(None, None)) is None


def test_a_certificate_is_served_with_tls_1_2_or_newer(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    made = certificate(settings(cert, key))
    assert made is not None
    assert made.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert subject(made.context, cert) == "localhost"


def test_wrong_files_are_named(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path / "a")
    other_cert, other_key = make_certificate(tmp_path / "b")
    locked_cert, locked_key = make_certificate(tmp_path / "locked", password="s3cret")
    text = tmp_path / "text"
    text.write_text("no certificate")
    empty = tmp_path / "empty"
    empty.touch()
    broken = tmp_path / "broken.pem"
    broken.write_bytes(cert.read_bytes().replace(b"A", b"!"))
    for given, expected in (
        ((cert, None), "tls_key is not set"),
        ((None, key), "tls_cert is not set"),
        ((cert, tmp_path / "none"), "tls_key can't be read: .*none: No such file"),
        ((tmp_path / "none", key), "tls_cert can't be read"),
        ((tmp_path, key), "tls_cert can't be read"),
        ((cert, other_key), "is not the key of the certificate"),
        ((other_cert, key), "is not the key of the certificate"),
        ((locked_cert, locked_key), "tls_key is encrypted"),
        ((text, key), "tls_cert is no PEM file"),
        ((empty, key), "tls_cert is no PEM file"),
        ((cert, text), "tls_key is no PEM file"),
        ((broken, key), "can't be used"),
        ((key, cert), "can't be used"),
    ):
        with pytest.raises(ConfigurationError, match=expected):
            certificate(settings(*given))


def test_new_files_are_served_after_a_reload_and_broken_ones_never(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path / "live", "first")
    made = TlsCertificate(str(cert), str(key))
    first = shutil.copy(cert, tmp_path / "first.pem")
    key.write_text("-----BEGIN nothing")
    made.reload()
    assert subject(made.context, Path(first)) == "first"
    cert.unlink()
    made.reload()
    assert subject(made.context, Path(first)) == "first"
    cert, _ = make_certificate(tmp_path / "live", "second")
    made.reload()
    assert subject(made.context, cert) == "second"
