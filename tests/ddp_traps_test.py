"""Compression where DDP and FSDP2 are used as in earnest, on three gloo workers."""

import pytest
import torch

from ddp_scenes import BATCHES, SIZE, Net, run
from tonsor.compress.workers_test import same

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Return what each of three workers saw."""
    return run(tmp_path_factory.mktemp("gloo"))


def mean_of(dicts):
    return {n: torch.stack([d[n] for d in dicts]).mean(0) for n in dicts[0]}


def test_a_static_graph_trains_as_one_that_is_searched_for_what_rests(seen):
    for each in seen:
        declared, searched = each["static_graph"]
        torch.testing.assert_close(declared, searched, atol=1e-6, rtol=1e-5)
        assert same(declared, seen[0]["static_graph"][0])


def test_nothing_is_lost_where_the_data_of_some_workers_end_early(seen):
    applied = seen[BATCHES.index(max(BATCHES))]["run_out"][0]  # this one saw every step
    given, kept = (mean_of([each["run_out"][part] for each in seen]) for part in (1, 2))
    for n in applied:
        torch.testing.assert_close(applied[n] + kept[n], given[n], atol=1e-6, rtol=1e-5)
    assert all(same(each["run_out"][3], seen[0]["run_out"][3]) for each in seen)
    assert not same(seen[0]["run_out"][3], dict(Net().named_parameters()))


def test_an_overflow_leaves_no_trace_and_a_loss_scale_no_difference(seen):
    for each in seen:
        weights, residuals, scales = each["overflow"]
        assert scales == [1024, 2048, 1024, 1024]  # grown, and halved by the overflow
        for other in ("no overflow", "no scale"):
            assert same(weights, each[other][0])
            assert same(residuals, each[other][1])


def test_an_error_is_told_to_workers_that_live_on(seen):
    for rank, each in enumerate(seen):
        first, second = each["fail"]
        assert ("worker 0 failed: " if rank else "") + "KeyError" in first
        assert "on the first worker alone" in first
        assert "an earlier bucket failed" in second


def test_a_step_is_counted_in_bytes_and_seconds(seen):
    net = Net()
    dense = sum(p.nbytes for p in net.parameters())
    factors = sum(4 * (p.shape[0] + p.shape[1] if p.ndim == 2 else p.numel()) for p in net.parameters())
    for each in seen:
        step, total = each["count"]
        assert (step["steps"], step["bytes_sent"], step["bytes_dense"]) == (1, factors, dense)
        assert (total["steps"], total["bytes_sent"], total["bytes_dense"]) == (3, 3 * factors, 3 * dense)
        for part in ("encode", "send", "decode"):
            assert 0 < step[part] < total[part]


def test_states_are_gathered_on_the_first_and_shared_out_to_fewer(seen):
    states = seen[0]["gather"][0]
    assert [each["gather"][0] for each in seen[1:]] == [[]] * (SIZE - 1)
    for state, each in zip(states, seen, strict=True):
        assert same(state["residuals"], each["gather"][1]["residuals"])
        assert same(state["compressor"]["rights"], each["gather"][1]["compressor"]["rights"])
    before, after = (mean_of([s["residuals"] for s in part]) for part in (states, seen[0]["gather"][2]))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("name", ["dense", "half", "TopK", "inside", "PowerSGD", "unused", "accumulated"])
def test_a_sharded_model_gets_the_mean_it_would_get_without_compression_or_under_ddp(seen, name):
    for each in seen:
        compressed, other = each["fsdp"][name]
        close = {"atol": 1e-2, "rtol": 1e-2} if name == "half" else {"atol": 1e-6, "rtol": 1e-5}
        torch.testing.assert_close(compressed, other, **close)
        assert same(compressed, seen[0]["fsdp"][name][0])


def test_a_sharded_model_sends_what_one_under_ddp_sends(seen):
    for each in seen:
        sharded, ddp = each["fsdp"]["traffic"]
        # a sparse message is coded bucket by bucket, and the two share gradients out differently
        assert abs(sharded["bytes_sent"] - ddp["bytes_sent"]) <= 0.01 * ddp["bytes_sent"]
        assert ddp["bytes_sent"] < 0.2 * sharded["bytes_dense"]
        assert (sharded["steps"], sharded["bytes_dense"]) == (ddp["steps"], ddp["bytes_dense"])
