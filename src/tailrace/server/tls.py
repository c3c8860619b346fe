"""TLS with a certificate that can be replaced while the server runs.

The listening socket has one context for its whole life. New files are tried in a context of their own first, so files
that can't be used change nothing; then the socket's context loads them, and new connections get them.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from tailrace.errors import ConfigurationError
from tailrace.settings import Settings


class TlsCertificate:
    """The certificate and the context for connections."""

    def __init__(self, cert: str, key: str) -> None:
        """Paths of PEM files. Raises ConfigurationError when they can't be used."""
        self._cert = Path(cert).expanduser()
        self._key = Path(key).expanduser()
        self.context = _context(self._cert, self._key)

    def reload(self) -> None:
        """Read the files again. Files that can't be used are logged, and the old certificate stays."""
        log = structlog.get_logger()
        try:
            _context(self._cert, self._key)
            _load(self.context, self._cert, self._key)
        except ConfigurationError as error:
            log.error("the TLS certificate stays as it was", error=str(error))
            return
        log.info("the TLS certificate was read", file=str(self._cert))


def certificate(settings: Settings) -> TlsCertificate | None:
    """The certificate of the settings; None for plain HTTP. Raises ConfigurationError."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "tls_cert" if cert is None else "tls_key"
        raise ConfigurationError(f"{missing} is not set: TLS needs a certificate (tls_cert) and its key (tls_key)")
    return TlsCertificate(cert, key)


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    """A server's context with the two files. Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A client can't have the server compute a handshake within a connection again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load(context, cert, key)
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Have the context use the two files. Raises ConfigurationError."""
    for name, file in (("tls_cert", cert), ("tls_key", key)):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{name} can't be read: {file}: {error.strerror or error}") from error
        if b"-----BEGIN " not in data:
            raise ConfigurationError(f"{name} is no PEM file: {file}")

    def password() -> str:
        raise ConfigurationError(
            f"tls_key is encrypted, and no password can be typed at a restart: {key}; "
            "decrypt it (openssl pkey -in KEY -out NEW) and protect the file by its mode"
        )

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"tls_key {key} is not the key of the certificate in tls_cert {cert}") from error
        reason = error.reason or str(error)
        raise ConfigurationError(f"tls_cert {cert} and tls_key {key} can't be used: {reason}") from error
    except OSError as error:
        raise ConfigurationError(f"tls_cert {cert} or tls_key {key} can't be read: {error}") from error
