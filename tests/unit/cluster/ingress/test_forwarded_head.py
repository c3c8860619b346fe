"""The head that a replica gets: the client's, without what is for one hop, and with the cluster's headers."""

from __future__ import annotations

from typing import Any

from tailrace.cluster.ingress.forwarded_head import forwarded_head


def head(headers: list[tuple[bytes, bytes]], **changes: Any) -> list[bytes]:
    given: dict[str, Any] = {
        "client": "192.0.2.1",
        "scheme": "https",
        "request_id": "req_1",
        "secret": "s3cret",
        "length": 5,
        "keep_alive": True,
    }
    made = forwarded_head("POST", b"/v1/x?a=b", "1.1", headers, **(given | changes))
    assert made.endswith(b"\r\n\r\n")
    return made[:-4].split(b"\r\n")


def test_the_cluster_adds_its_headers() -> None:
    assert head([(b"host", b"llm.example")]) == [
        b"POST /v1/x?a=b HTTP/1.1",
        b"host: llm.example",
        b"x-forwarded-for: 192.0.2.1",
        b"x-forwarded-proto: https",
        b"x-forwarded-host: llm.example",
        b"x-request-id: req_1",
        b"x-tailrace-client: 192.0.2.1",
        b"x-tailrace-cluster-secret: s3cret",
        b"content-length: 5",
    ]


def test_framing_and_secrets_of_a_client_are_dropped() -> None:
    lines = head(
        [
            (b"transfer-encoding", b"chunked"),
            (b"content-length", b"7"),
            (b"x-tailrace-cluster-secret", b"guessed"),
            (b"x-tailrace-client", b"203.0.113.9"),
            (b"connection", b"close, X-Mine, authorization"),
            (b"x-mine", b"1"),
            (b"authorization", b"Bearer k"),
        ]
    )
    text = b"\n".join(lines)
    assert text.count(b"content-length") == 1
    assert b"transfer-encoding" not in text
    assert not any(word in text for word in (b"guessed", b"203.0.113.9", b"x-mine", b"\nconnection"))
    assert b"authorization: Bearer k" in lines  # No client can have another's key check skipped.


def test_a_connection_that_ends_says_so() -> None:
    assert head([], keep_alive=False)[-1] == b"connection: close"
    assert b"content-length" not in b"".join(head([], length=None))
