import pytest

from tonsor.report import compare
from tonsor.report.example_test import example


def test_there_is_a_row_for_each_run_and_state_and_all_have_the_same_keys():
    other = example() | {
        "metric": "r2",
        "models": {"dense": {"accuracy": 0.48, "latency_ms": {"8": {"median": 2}}}},
    }
    rows = compare({"a": example(), "b": other})
    assert [(row["run"], row["model"]) for row in rows] == [
        ("a", "dense"),
        ("a", "masked"),
        ("a", "shrunk"),
        ("b", "dense"),
    ]
    assert len({tuple(row) for row in rows}) == 1
    assert [key for key in rows[0] if "latency" in key] == ["latency_ms_1", "latency_ms_8", "latency_ms_64"]


def test_a_row_says_what_the_report_says_and_none_where_it_says_nothing():
    dense, *_, last = compare({"a": example(), "b": {"models": {"dense": {"macs": 3}}}})
    assert dense["accuracy"] == 0.978
    assert dense["latency_ms_64"] == 0.911
    assert (last["macs"], last["accuracy"], last["metric"], last["latency_ms_1"]) == (3, None, None, None)


@pytest.mark.parametrize("report", [{}, {"models": {}}])
def test_a_report_without_models_is_refused_by_name(report):
    with pytest.raises(ValueError, match="'b' holds no models"):
        compare({"a": example(), "b": report})
