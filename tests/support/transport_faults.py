"""Faults below the dialects: bodies, paths, keys, errors, connections."""

from __future__ import annotations

from fault_rules import CHAT, answer_if, at, fault, has, header, is_broken, put, refuse, streams

fault("chunked-upload", "411", refuse(lambda asked: asked.chunked, 411))
fault("charset", "415", refuse(lambda asked: "charset" in asked.headers.get("content-type", ""), 415))
fault("accept", "406", refuse(lambda asked: asked.headers.get("accept") == "text/event-stream", 406))
fault("without-v1", "404", refuse(lambda asked: asked.path == CHAT, 404))
fault("slashes", "doubled", refuse(lambda asked: "//" in asked.path, 404))
fault("slashes", "trailing", refuse(lambda asked: len(asked.path) > 1 and asked.path.endswith("/"), 404))
fault("slashes", "v1/v1", refuse(lambda asked: "/v1/v1/" in asked.path, 404))
fault("no-redirect", "307", refuse(lambda asked: len(asked.path) > 1 and asked.path.endswith("/"), 307))
fault(
    "preflight",
    "405",
    answer_if(lambda asked: asked.method == "OPTIONS", lambda answer: put(vars(answer), "status", 405)),
)
fault("preflight", "no headers", header(lambda asked: asked.method == "OPTIONS", "access-control-allow-headers", None))
fault("preflight", "a star", header(lambda asked: asked.method == "OPTIONS", "access-control-allow-headers", "*"))
fault("cors-on-errors", "none", header(is_broken(CHAT), "access-control-allow-origin", None))
fault("cors-on-streams", "none", header(streams(CHAT), "access-control-allow-origin", None))
fault("liveness", "HEAD", refuse(lambda asked: asked.method == "HEAD", 405))
fault("liveness", "health", refuse(lambda asked: asked.path == "/health", 404))
fault("any-key", "Bearer", refuse(lambda asked: "sk-any" in asked.headers.get("authorization", ""), 401))
fault("any-key", "x-api-key", refuse(lambda asked: "x-api-key" in asked.headers, 401))
fault(
    "wrong-key",
    "403",
    answer_if(lambda asked: asked.headers.get("x-api-key") == "wrong", lambda answer: put(vars(answer), "status", 403)),
    keyed=True,
)
fault(
    "wrong-key",
    "shape",
    answer_if(has(CHAT, lambda body: True), lambda answer: answer.status == 401 and answer.say("no")),
    keyed=True,
)
fault(
    "either-header",
    "x-api-key",
    refuse(lambda asked: "authorization" not in asked.headers and at(CHAT)(asked), 401),
    keyed=True,
)
fault("error-shape", "text", header(is_broken(CHAT), "content-type", "text/plain"))
fault("error-shape", "detail", answer_if(is_broken(CHAT), lambda answer: answer.say({"detail": "broken"})))
fault(
    "error-shape",
    "code is a number",
    answer_if(
        is_broken(CHAT), lambda answer: answer.say({"error": {"message": "m", "type": "t", "param": None, "code": 400}})
    ),
)
fault(
    "error-shape",
    "200",
    answer_if(is_broken(CHAT), lambda answer: answer.refuse(200, {"error": {"message": "m", "type": "t"}})),
)
fault("unknown-route", "text", answer_if(at("/no-such-route"), lambda answer: put(vars(answer), "body", b"Not Found")))
fault(
    "unknown-model", "500", refuse(has(CHAT, lambda body: "no-such" in str(body.get("model"))), 500, "no-such-model-1b")
)
fault("unknown-model", "not named", refuse(has(CHAT, lambda body: "no-such" in str(body.get("model"))), 404))
fault("not-401", "status", refuse(has(CHAT, lambda body: not body), 403))
fault("not-401", "credit", refuse(has(CHAT, lambda body: not body), 400, "You have no credit for this."))
fault("connection-close", "closes", answer_if(streams(CHAT), lambda answer: put(vars(answer), "closes", True)))
fault(
    "connection-reuse",
    "rubbish",
    answer_if(
        lambda asked: streams(CHAT)(asked) and "connection" not in asked.headers,
        lambda answer: put(vars(answer), "tail", b"0\r\n\r\n"),
    ),
)
