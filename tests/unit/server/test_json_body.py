"""Decoding errors name the field, as a path."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest

from tailrace.errors import InvalidRequest
from tailrace.server.json_body import Truncated, convert, decode


class Inner(msgspec.Struct):
    name: str
    kind: Literal["a", "b"] | None = None


class Outer(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=0)]
    inners: list[Inner] = []
    bias: dict[int, float] = {}
    table: dict[str, Inner] = {}


DECODER = msgspec.json.Decoder(Outer)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "count"),
        (b'{"count": "1"}', "count"),
        (b'{"count": -1}', "count"),
        (b'{"count": 1, "inners": {}}', "inners"),
        (b'{"count": 1, "inners": [1]}', "inners[0]"),
        (b'{"count": 1, "inners": [{"name": "x"}, {}]}', "inners[1].name"),
        (b'{"count": 1, "inners": [{"name": "x"}, {"name": 1}]}', "inners[1].name"),
        (b'{"count": 1, "inners": [{"name": "x", "kind": "c"}]}', "inners[0].kind"),
        (b'{"count": 1, "bias": {"x": 1}}', "bias"),
        (b'{"count": 1, "bias": {"1": "x"}}', "bias[...]"),
        (b'{"count": 1, "table": {"x": {}}}', "table[...].name"),
    ],
)
def test_the_field_is_named(body: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(body, DECODER)
    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message
    assert "$" not in caught.value.message


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"'])
def test_what_is_no_object_names_no_field(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object") as caught:
        decode(body, DECODER)
    assert caught.value.param is None


@pytest.mark.parametrize("body", [b"", b"{", b'{"count": NaN}', b'{"count": 1} x', b"[" * 100_000])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(body, DECODER)
    assert (caught.value.param, caught.value.code) == (None, "invalid_json")


def test_what_is_nested_too_deeply_names_its_place() -> None:
    for body in (b'{"x":' * 100_000, b'{"count": 1, "x": ' + b"[" * 300 + b"]" * 300 + b"}"):
        with pytest.raises(InvalidRequest, match="too deeply") as caught:
            decode(body, DECODER)
        assert (caught.value.param or "").startswith("x")
    assert decode(b'{"count": 1, "x": ' + b"[" * 255 + b"]" * 255 + b"}", DECODER) == Outer(1)
    assert decode(b'{"count": 1, "x": "' + b'\\"[' * 300 + b'"}', DECODER) == Outer(1)


def test_a_whole_body() -> None:
    assert decode(b'{"count": 1, "new": [{}]}', DECODER) == Outer(1)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"inners": []}, "input[2].count"),
        ({"count": -1}, "input[2].count"),
        ({"count": 1, "inners": [{"name": "a", "kind": "c"}]}, "input[2].inners[0].kind"),
        ([], "input[2]"),
    ],
)
def test_what_is_converted_later_is_named_by_its_place_in_the_body(value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert(value, Outer, "input[2]")
    assert caught.value.param == param


def test_a_list_is_named_by_its_index() -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert([{"name": 1}], list[Inner], "tools")
    assert caught.value.param == "tools[0].name"


def test_a_float_with_a_whole_value_is_an_integer() -> None:
    body = b'{"count": 2.0, "bias": {"7": 1.5}, "inners": [{"name": "x"}]}'
    assert decode(body, DECODER) == Outer(2, [Inner("x")], {7: 1.5})
    assert convert({"count": 3.0}, Outer, "input[0]") == Outer(3)


@pytest.mark.parametrize("number", ["2.5", "-0.5", "1e400"])
def test_a_float_with_a_fraction_is_no_integer(number: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(b'{"count": %b}' % number.encode(), DECODER)
    assert caught.value.param in ("count", None)
    if number != "1e400":
        assert caught.value.param == "count"


def test_bounds_hold_for_floats_that_are_integers() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(b'{"count": -1.0}', DECODER)
    assert caught.value.param == "count"


class Sizes(msgspec.Struct):
    size: int = 0
    number: int = 0
    heat: float = 0.0


class Sized(msgspec.Struct):
    options: Sizes
    size: int = 0


def test_fields_that_are_truncated_lose_their_fraction() -> None:
    """As Ollama reads its options. Others keep theirs, and stay refused."""
    truncated = Truncated("options", frozenset({"size", "number"}))
    decoder = msgspec.json.Decoder(Sized)
    body = b'{"options": {"size": 8192.9, "number": -1.7, "heat": 0.7}, "size": 3.0}'
    assert decode(body, decoder, truncated=truncated) == Sized(Sizes(8192, -1, 0.7), 3)
    with pytest.raises(InvalidRequest) as caught:
        decode(b'{"options": {}, "size": 3.5}', decoder, truncated=truncated)
    assert caught.value.param == "size"


def test_floats_in_many_lists_cost_no_more_than_a_few_decodes() -> None:
    """Each replacement decodes the body again: there is a bound."""

    class Lists(msgspec.Struct):
        lists: list[list[int]]

    with pytest.raises(InvalidRequest) as caught:
        decode(msgspec.json.encode({"lists": [[1.0]] * 1000}), msgspec.json.Decoder(Lists))
    assert caught.value.param == "lists[4][0]"


@pytest.mark.parametrize("body", [b'{"count": 2.0, "inners": [{"name": "\\ud83d"}]}', b'\xef\xbb\xbf{"count": 2.0}'])
def test_a_float_before_half_an_emoji_is_still_an_integer(body: bytes) -> None:
    assert decode(body, DECODER).count == 2


def test_a_float_before_invalid_json_is_reported_as_invalid_json() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(b'{"count": 2.0, oops', DECODER)
    assert caught.value.code == "invalid_json"
