"""The placements that tune tries beside a plan, and the rules that it remembers."""

from __future__ import annotations

import msgspec

from tailrace.engine.devices.rules import PlacementRules
from tailrace.tuning.placement_neighbours import PlacedParts, neighbours

_NAMES = ("local", "a:1", "b:2")


def _plan(
    homes: tuple[int, ...], feeds: tuple[int, ...] | None = None, *, output: int | None = None, experts: bool = True
) -> PlacedParts:
    return PlacedParts(
        _NAMES, homes, homes if feeds is None else feeds, homes[-1] if output is None else output, experts
    )


def _homes(plan: PlacedParts) -> set[tuple[int, ...]]:
    return {each.homes for each in neighbours(plan)} - {plan.homes}


def test_a_layer_moves_over_each_boundary() -> None:
    assert _homes(_plan((0, 0, 1, 1, 2, 2))) == {
        (0, 1, 1, 1, 2, 2),
        (0, 0, 0, 1, 2, 2),
        (0, 0, 1, 2, 2, 2),
        (0, 0, 1, 1, 1, 2),
    }


def test_devices_without_layers_get_one() -> None:
    assert _homes(_plan((1, 1, 1))) == {(0, 1, 1), (1, 1, 2)}


def test_experts_go_along_with_their_layer_and_stay_where_they_were_apart() -> None:
    found = {each.homes: each.feeds for each in neighbours(_plan((0, 0, 1), (0, 2, 1))) if each.homes != (0, 0, 1)}
    assert found[0, 1, 1] == (0, 2, 1)
    assert found[0, 0, 0] == (0, 2, 0)


def test_experts_are_tried_at_home_and_on_each_device() -> None:
    plan = _plan((1, 1), (0, 0))
    feeds = {each.feeds for each in neighbours(plan) if each.homes == plan.homes and each.output == plan.output}
    assert feeds == {(1, 1), (2, 2)}


def test_a_dense_model_keeps_its_layers_together() -> None:
    assert all(each.feeds == each.homes for each in neighbours(_plan((0, 1), experts=False)))


def test_the_output_is_tried_here_and_with_the_last_layer() -> None:
    outputs = {each.output for each in neighbours(_plan((1, 1))) if each.homes == (1, 1)}
    assert outputs == {0, 1}


def test_nothing_is_tried_twice() -> None:
    found = neighbours(_plan((0, 0, 1, 1)))
    assert len(found) == len(set(found))


def test_rules_name_exactly_the_placement() -> None:
    rules = msgspec.convert(_plan((0, 0, 1, 2), (0, 1, 0, 0), output=0).rules, PlacementRules)
    assert rules.layers == {"0-1": "local", "2": "a:1", "3": "b:2"}
    assert rules.output == "local"
    assert rules.tensors == {r"^blk\.(1)\.ffn_\w+_exps\.": "a:1", r"^blk\.(2|3)\.ffn_\w+_exps\.": "local"}


def test_words_of_a_placement() -> None:
    assert _plan((0, 0, 1), (0, 0, 0), output=0).label == (
        "layers local 2 + a:1 1, experts of 1 on local, output on local"
    )
    assert _plan((0, 1, 1)).label == "layers local 1 + a:1 2"
