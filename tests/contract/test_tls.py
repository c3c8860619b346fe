"""A server with a certificate: streams, what isn't TLS, a new certificate while it runs, and our own clients."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import make_certificate, trusting
from openai_wire import Connection, chat, chat_stream
from servers import ServerProcess, fake, wait_for

CHAT = "/v1/chat/completions"


class Secure:
    """A server with TLS, and the files of its certificate."""

    def __init__(self, server: ServerProcess, cert: Path, key: Path) -> None:
        self.server = server
        self.cert = cert
        self.key = key

    def connection(self, context: ssl.SSLContext | None = None) -> Connection:
        """A connection that trusts the certificate as it is on disk."""
        made = Connection(self.server.port)
        made.secure(context or trusting(self.cert))
        return made

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A tailrace command that takes the server's address, with it as the last argument."""
        command = str(Path(sys.executable).with_name("tailrace"))
        address = f"https://localhost:{self.server.port}"
        return subprocess.run([command, *arguments, address], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = make_certificate(folder)
    with fake("--tls-cert", str(cert), "--tls-key", str(key)) as server:
        yield Secure(server, cert, key)


def test_requests_and_streams_on_one_connection(secure: Secure) -> None:
    with secure.connection() as connection:
        for _ in range(3):
            connection.request("POST", CHAT, chat("<say>" + "a" * 500 + "</say>", stream=True))
            assert chat_stream(connection.read()).text == ["a" * 500]
            connection.request("GET", "/health")
            assert connection.read().json()["status"] == "ok"


def test_a_large_body_and_a_large_reply(secure: Secure) -> None:
    with secure.connection() as connection:
        connection.request("POST", "/tokenize", {"content": "a" * 500_000})
        assert len(connection.read().json()["tokens"]) == 500_000


def test_what_is_no_request_is_answered(secure: Secure) -> None:
    with secure.connection() as connection:
        connection.send(b"nonsense\r\n\r\n")
        assert connection.read().status == 400
        connection.read_to_end()


def test_plain_http_is_told_so(secure: Secure) -> None:
    with Connection(secure.server.port) as connection:
        connection.request("POST", CHAT, chat("<say>ok</say>"))
        reply = connection.read()
        assert reply.status == 400
        assert reply.error()["code"] == "https_required"
        connection.read_to_end()


def test_what_is_no_tls_is_closed_and_others_are_served(secure: Secure) -> None:
    for data in (b"\x16\x03\x01\x00\x05hello", bytes(2000)):
        with socket.create_connection(("127.0.0.1", secure.server.port), timeout=30) as plain:
            plain.sendall(data)
            try:
                while plain.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    test_requests_and_streams_on_one_connection(secure)
    assert "Traceback" not in secure.server.log


def test_old_versions_of_tls_are_refused(secure: Secure) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):  # noqa: PT011  # Which error it is depends on the client's library.
        secure.connection(context)


def test_a_new_certificate_while_it_runs(secure: Secure, tmp_path: Path) -> None:
    def reload() -> None:
        os.kill(secure.server.pid, signal.SIGHUP)

    with secure.connection() as before:
        before.request("GET", "/health")
        assert before.read().status == 200
        good = (secure.cert.read_bytes(), secure.key.read_bytes())
        old = shutil.copy(secure.cert, tmp_path / "old.pem")
        secure.key.write_text("-----BEGIN nothing")
        reload()
        wait_for("the error", lambda: "certificate stays as it was" in secure.server.log)
        with secure.connection(trusting(Path(old))) as still:
            still.request("GET", "/health")
            assert still.read().status == 200
        make_certificate(secure.cert.parent, "renewed")
        assert good[0] != secure.cert.read_bytes()
        reload()
        wait_for("the new certificate", lambda: "certificate was read" in secure.server.log)
        with secure.connection() as after:
            after.request("POST", CHAT, chat("<say>ok</say>", stream=True))
            assert chat_stream(after.read()).text == ["ok"]
        # A connection outlives the certificate that it began with.
        before.request("GET", "/health")
        assert before.read().status == 200
    assert secure.server.http


def test_bench_and_check_speak_tls(secure: Secure) -> None:
    load = ("-n", "1", "-n", "3", "--turns", "1", "--output-tokens", "20")
    refused = secure.run("bench", *load)
    assert refused.returncode == 1
    assert "certificate isn't trusted" in refused.stderr
    measured = secure.run("bench", "--insecure", *load)
    assert measured.returncode == 0, measured.stderr
    checked = secure.run("check", "--insecure", "--rule", "cors-on-errors")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_files_that_cannot_be_used_end_the_command(tmp_path: Path) -> None:
    cert, _ = make_certificate(tmp_path / "a")
    _, key = make_certificate(tmp_path / "b", password="s3cret")
    command = [str(Path(sys.executable).with_name("tailrace")), "serve", "--backend", "fake", "--port", "0"]
    files = ["--tls-cert", str(cert), "--tls-key", str(key)]
    ended = subprocess.run([*command, *files], capture_output=True, text=True, check=False, timeout=60, input="")
    assert ended.returncode == 2
    assert "tls_key is encrypted" in ended.stderr


def test_a_process_that_starts_again_waits_for_files_that_can_be_used(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    with fake("--tls-cert", str(cert), "--tls-key", str(key)) as server:
        good = key.read_bytes()
        key.write_text("half written")
        os.kill(server.http, signal.SIGKILL)
        wait_for("the reason", lambda: "tls_key is no PEM file" in server.log)
        key.write_bytes(good)

        def answers() -> bool:
            try:
                with Connection(server.port) as connection:
                    connection.secure(trusting(cert))
                    connection.request("GET", "/v1/models")
                    return connection.read().status == 200
            except OSError:
                return False

        wait_for("an answer", answers)
        assert "Traceback" not in server.log
