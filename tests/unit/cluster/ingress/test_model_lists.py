"""The lists of all models, from one reply of each."""

from __future__ import annotations

import json

import pytest

from tailrace.cluster.ingress.model_lists import ModelLists


def test_each_model_is_listed_once_in_the_clusters_order() -> None:
    lists = ModelLists()
    replies = [
        ("a", b'{"object":"list","data":[{"id":"a"}]}'),
        ("b", b'{"object":"list","data":[{"id":"b"},{"id":"a"}]}'),
    ]
    found = json.loads(lists.merged("/models", replies, ["a", "b"]))
    assert found == {"object": "list", "data": [{"id": "a"}, {"id": "b"}]}


def test_a_model_that_sleeps_is_listed_as_it_was() -> None:
    lists = ModelLists()
    lists.merged("/api/tags", [("a", b'{"models":[{"name":"a","size":5}]}')], ["a"])
    found = json.loads(lists.merged("/api/tags", [("b", b'{"models":[{"name":"b"}]}')], ["a", "b", "c"]))
    assert found["models"] == [{"name": "a", "size": 5}, {"name": "b"}, {"name": "c", "model": "c"}]


def test_a_model_that_sleeps_is_not_loaded() -> None:
    found = json.loads(ModelLists().merged("/api/ps", [("b", b'{"models":[{"name":"b"}]}')], ["a", "b"]))
    assert found == {"models": [{"name": "b"}]}


def test_without_any_replica_there_are_names() -> None:
    found = json.loads(ModelLists().merged("/models", [], ["a"]))
    assert (found["object"], found["data"][0]["id"]) == ("list", "a")


def test_anthropics_list_names_its_ends() -> None:
    body = b'{"data":[{"id":"%b"}],"has_more":false,"first_id":"%b","last_id":"%b"}'
    replies = [(name, body % ((name.encode(),) * 3)) for name in ("a", "b")]
    found = json.loads(ModelLists().merged("/models", replies, ["a", "b"]))
    assert (found["first_id"], found["last_id"]) == ("a", "b")


def test_what_is_no_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="no object"):
        ModelLists().merged("/models", [("a", b"[]")], ["a"])
