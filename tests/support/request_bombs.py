"""Requests that are small or legal, and expensive where the work for them isn't bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Bomb:
    """One request."""

    name: str
    path: str
    body: dict[str, Any] | bytes


def _chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100, "stream": True, **fields}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return _chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})


def _nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


#: Definitions of which each refers twice to the next: 2^40 objects when they are written out.
_DOUBLING = {
    "$ref": "#/$defs/d0",
    "$defs": {
        f"d{n}": {
            "type": "object",
            "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}, "b": {"$ref": f"#/$defs/d{n + 1}"}},
        }
        for n in range(40)
    }
    | {"d40": {"type": "string"}},
}
_AMBIGUOUS = 'start: s\ns: s s | s s s | "a" | ""'
_MANY_RULES = (
    "root ::= r0\n" + "\n".join(f'r{n} ::= "a" r{n + 1} | "b" r{n + 1}' for n in range(8000)) + '\nr8000 ::= "c"'
)

BOMBS: tuple[Bomb, ...] = (
    Bomb("ambiguous-lark", CHAT, _chat(guided_grammar=_AMBIGUOUS)),
    Bomb("many-rules", "/completion", {"prompt": "Hi", "n_predict": 50, "grammar": _MANY_RULES, "stream": True}),
    Bomb(
        "ambiguous-gbnf", "/completion", {"prompt": "a", "n_predict": 50, "grammar": 'root ::= s\ns ::= s s | "a" | ""'}
    ),
    Bomb("repeated-gbnf", "/completion", {"prompt": "a", "n_predict": 50, "grammar": 'root ::= ("a"{0,9999}){0,9999}'}),
    Bomb("regex-repeat", CHAT, _chat(guided_regex="((a{1,1000}){1,1000}){1,1000}")),
    Bomb("regex-states", CHAT, _chat(guided_regex="(.*a.{20}|.*b.{19}|.*c.{18})*")),
    Bomb("regex-alternatives", CHAT, _chat(guided_regex="|".join(f"a{{{n}}}b" for n in range(1, 800)))),
    Bomb("choice-many", CHAT, _chat(guided_choice=[f"choice number {n}" for n in range(20_000)])),
    Bomb("schema-doubling", CHAT, _schema(_DOUBLING)),
    Bomb("schema-deep", CHAT, _schema(_nested(400, {"type": "string"}))),
    Bomb("schema-enum", CHAT, _schema({"enum": [f"value {n}" for n in range(30_000)]})),
    Bomb("schema-items", CHAT, _schema({"type": "array", "items": {}, "minItems": 10**9})),
    Bomb("schema-length", CHAT, _schema({"type": "string", "minLength": 10**8, "maxLength": 10**9})),
    Bomb(
        "schema-number", CHAT, _schema({"type": "number", "multipleOf": 1e-9, "minimum": -(10**15), "maximum": 10**15})
    ),
    Bomb("schema-pattern", CHAT, _schema({"type": "string", "pattern": "^((a|b|c|d)*e){30}$"})),
    Bomb("schema-anyof", CHAT, _schema({"anyOf": [_nested(3, {"const": n}) for n in range(2000)]})),
    Bomb(
        "tools-many",
        CHAT,
        _chat(
            tools=[
                {"type": "function", "function": {"name": f"f{n}", "parameters": _nested(5, {"type": "string"})}}
                for n in range(500)
            ],
            tool_choice="required",
        ),
    ),
    Bomb("messages-tiny", CHAT, _chat(messages=[{"role": "user", "content": "a"}] * 25_000)),
    Bomb("stops-many", CHAT, _chat(stop=["a" * n for n in range(1, 1000)])),
    Bomb("bias-many", CHAT, _chat(logit_bias={str(n): 1 for n in range(40_000)})),
    Bomb("special-names", CHAT, _chat(messages=[{"role": "user", "content": "<|im_start|>" * 60_000}])),
    Bomb("body-deep", CHAT, b'{"messages": ' + b"[" * 400_000 + b"]" * 400_000 + b"}"),
    Bomb("body-keys", CHAT, b"{" + b",".join(b'"k%d": 1' % n for n in range(60_000)) + b"}"),
    Bomb("number-long", CHAT, b'{"messages": [], "seed": ' + b"9" * 900_000 + b"}"),
    Bomb("choices", CHAT, _chat(n=128, messages=[{"role": "user", "content": "word " * 100}])),
    Bomb("prompts", "/v1/completions", {"prompt": ["a b c"] * 50_000, "max_tokens": 1}),
    Bomb(
        "echo-logprobs",
        "/v1/completions",
        {"prompt": ["word " * 200] * 64, "max_tokens": 0, "echo": True, "logprobs": 5},
    ),
    Bomb("embeddings", "/v1/embeddings", {"input": ["some words to embed"] * 2048}),
    Bomb("one-text", "/tokenize", {"content": "a" * 900_000}),
    Bomb("unbroken-text", "/v1/completions", {"prompt": "漢" * 200_000, "max_tokens": 1}),
    Bomb("items", "/v1/responses", {"input": [{"role": "user", "content": "a"}] * 20_000, "max_output_tokens": 16}),
    Bomb(
        "template-arguments",
        CHAT,
        _chat(chat_template_kwargs={f"k{n}": list(range(100)) for n in range(1000)}),
    ),
    Bomb("pieces", "/completion", {"prompt": [5, "a"] * 40_000, "n_predict": 1}),
    Bomb(
        "dry-breakers",
        "/completion",
        {"prompt": "Hi", "n_predict": 50, "dry_multiplier": 1, "dry_sequence_breakers": ["x" * 30] * 5000},
    ),
)
