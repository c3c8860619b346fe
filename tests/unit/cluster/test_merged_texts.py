"""The metrics of several replicas as one text: complete, valid for Prometheus' own parser, and safe from each text."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from made_devices import placed_metrics
from model_load import Load
from tailrace.cluster.metrics.merged_texts import MAX_TEXT_BYTES, OWN_PREFIX, MergedTexts
from tailrace.observe.engine_figures import EngineFigures
from tailrace.protocol import ModelInfo

Sample = tuple[str, tuple[tuple[str, str], ...]]


class Engine:
    engine_starts = 1
    model_info: ModelInfo | None = None

    def figures(self, replica: int) -> EngineFigures:
        return EngineFigures()


def server_text() -> bytes:
    """The metrics of a server with one model, and one on a worker, as it sends them."""
    metrics = placed_metrics()
    model = metrics.add_model('a "model"\\\n', Engine(), Load())
    model.requests(0).first_token_seconds.observe(0.3)
    return metrics.render()


def merge(*texts: tuple[str, str, bytes]) -> str:
    merged = MergedTexts()
    for replica, model, text in texts:
        for _ in merged.add(text, replica=replica, model=model):
            pass
    return "".join(merged.lines())


def samples(text: str) -> dict[Sample, float]:
    """The samples of a text, by Prometheus' own parser. A family or a sample that comes twice is an error."""
    found: dict[Sample, float] = {}
    names: list[str] = []
    for family in text_string_to_metric_families(text):
        names.append(family.name)
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    assert len(names) == len(set(names)), "a family's samples don't stand together"
    return found


def headers(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("# TYPE")]


def test_every_sample_of_every_replica_is_there_with_its_labels() -> None:
    text = server_text()
    single = samples(text.decode())
    merged = merge(("node1/a", "m", text), ('"b"\\\n', "n", text))
    expected: dict[Sample, float] = {}
    for replica, model in (("node1/a", "m"), ('"b"\\\n', "n")):
        for (name, labels), value in single.items():
            expected[name, tuple(sorted([*labels, ("replica", replica), ("model", model)]))] = value
    found = samples(merged)
    assert found.keys() == expected.keys()
    assert all(found[key] == value or math.isnan(value) for key, value in expected.items())
    assert len(headers(merged)) == len(set(headers(merged))) == len(headers(text.decode()))
    assert [line for line in merged.splitlines() if line.startswith("# HELP")] == [
        line for line in text.decode().splitlines() if line.startswith("# HELP")
    ]


def test_a_metric_that_one_replica_alone_has_is_there() -> None:
    one, other = b"# TYPE a gauge\na 1\n", b"# TYPE b gauge\nb 2\n# TYPE a gauge\na 3\n"
    assert samples(merge(("r", "m", one), ("s", "m", other))) == {
        ("a", (("model", "m"), ("replica", "r"))): 1,
        ("a", (("model", "m"), ("replica", "s"))): 3,
        ("b", (("model", "m"), ("replica", "s"))): 2,
    }


def test_a_replica_can_t_write_another_one_s_samples() -> None:
    hostile = b'# TYPE a gauge\na{replica="r",model="x"} 9\na{__name__="up"} 1\na{x="1",x="2"} 1\n'
    found = samples(merge(("r", "m", b"# TYPE a gauge\na 1\n"), ("s", "m", hostile)))
    assert found == {
        ("a", (("model", "m"), ("replica", "r"))): 1,
        ("a", (("exported_model", "x"), ("exported_replica", "r"), ("model", "m"), ("replica", "s"))): 9,
    }


def test_a_replica_can_t_write_the_ingress_own_metrics() -> None:
    name = f"{OWN_PREFIX}replicas"
    assert merge(("r", "m", f"# TYPE {name} gauge\n{name} 1\n{name}_x 2\n".encode())) == ""


def test_a_family_keeps_its_first_kind() -> None:
    one = b"# HELP a First\n# TYPE a counter\na 1\n"
    other = b'# HELP a Other\n# TYPE a histogram\na_bucket{le="+Inf"} 1\na_sum 1\na_count 1\n'
    merged = merge(("r", "m", one), ("s", "m", other), ("t", "m", one))
    assert len(samples(merged)) == 2
    assert merged.startswith("# HELP a First\n# TYPE a counter\n")


def test_a_sample_belongs_to_one_family() -> None:
    one = b'# TYPE a histogram\na_bucket{le="+Inf"} 1\na_sum 1\na_count 1\n'
    other = b"# TYPE a_count gauge\na_count 5\n"
    merged = merge(("r", "m", one), ("s", "m", other))
    assert headers(merged) == ["# TYPE a histogram"]
    assert all(("replica", "r") in labels for _, labels in samples(merged))


def test_what_isn_t_in_the_format_is_left_out_and_counted() -> None:
    wrong = [
        "a",
        "a one",
        "a 1 2 3",
        "a{ 1",
        'a{x="} 1',
        'a{x="\\d"} 1',
        "a{x=1} 1",
        "1a 1",
        "a 1_0",
        "a infinity",
        "# TYPE a many",
        "a" * 20_000,
    ]
    merged = MergedTexts()
    text = "\n".join([*wrong, 'ok{x="} \\" 7"} 3 1700000000000', "# EOF", "# a comment", ""])
    assert list(merged.add(text.encode(), replica="r", model="m")) == []
    assert merged.left_out_lines == len(wrong)
    assert "".join(merged.lines()) == '# HELP ok \n# TYPE ok untyped\nok{replica="r",model="m",x="} \\" 7"} 3\n'


def test_a_sample_that_comes_twice_is_left_out() -> None:
    text = b'a{x="1"} 1\na{x="1",} 2\na{ x="1" } 3\nb{x="1",y="2"} 1\nb{y="2",x="1"} 2\n'
    assert list(samples(merge(("r", "m", text))).values()) == [1, 1]


def test_a_long_text_is_read_in_pieces_and_to_a_bound() -> None:
    text = b"".join(b'a{x="%d"} 1\n' % number for number in range(450_000))
    assert len(text) > MAX_TEXT_BYTES
    merged = MergedTexts()
    pauses = sum(1 for _ in merged.add(text, replica="r", model="m"))
    written = "".join(merged.lines())
    assert pauses > 1000
    assert 100_000 < written.count("\n") < 450_000


@settings(deadline=None)  # A machine that is busy with other tests may be slow for one example.
@given(st.lists(st.text(alphabet='a{}="\\ \n#1,eHLPTYx_:', max_size=60).map(str.encode) | st.binary(max_size=60)))
def test_the_result_can_be_read_whatever_the_texts_are(texts: list[bytes]) -> None:
    good = b'# TYPE good gauge\ngood{y="z"} 4\n'
    merged = merge(("first", "m", good), *((f"r{number}", "m", text) for number, text in enumerate(texts)))
    found = samples(merged)
    assert found["good", (("model", "m"), ("replica", "first"), ("y", "z"))] == 4
    assert all(dict(labels)["replica"] in merged for _, labels in found)
