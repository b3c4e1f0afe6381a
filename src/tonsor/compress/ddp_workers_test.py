import pytest
import torch

from tonsor.compress.ddp_scenes_test import RULES, STEPS, Net, batch, grads_of, run, weights_of
from tonsor.compress.workers_test import same

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("gloo"))


@pytest.fixture(params=[2, 3])
def seen(request, processes):
    """Return what each of the workers of a group of two, or of three, saw."""
    return [process[request.param] for process in processes[: request.param]]


@pytest.mark.parametrize("name", RULES)
def test_replicas_are_equal_bit_for_bit_after_every_step(seen, name):
    for step in range(STEPS):
        assert all(same(seen[0][name][0][step], other[name][0][step]) for other in seen[1:])
    assert not same(seen[0][name][0][0], seen[0][name][0][-1])


def test_without_compression_training_is_that_of_plain_ddp(seen):
    for got, want in zip(seen[0]["dense"][0], seen[0]["plain"][0], strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_a_step_that_a_rule_leaves_is_averaged_by_ddp(seen):
    weights, sent, asked, calls = seen[0]["left"]
    for got, want in zip(weights, seen[0]["plain"][0], strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert all(same(weights[-1], each["left"][0][-1]) for each in seen)
    assert sent == seen[0]["dense"][1]
    assert asked == STEPS
    assert calls < len(seen[0]["names"][0])  # one bucket, then at least two in each of two steps


def test_with_error_feedback_nearly_all_elements_are_nearly_plain_ddp(seen):
    start = weights_of(Net())
    (near, _), (far, _), (plain, _) = (seen[0][n] for n in ("nearly all", "TopK", "plain"))
    for n in ("first.weight", "middle.weight", "last.weight"):
        moved = (plain[-1][n] - start[n]).norm()
        assert (near[-1][n] - plain[-1][n]).norm() < 0.1 * moved
        assert (far[-1][n] - plain[-1][n]).norm() > 0.2 * moved


def test_the_bytes_sent_are_those_of_the_formula(seen):
    weights = {n: p for n, p in Net().named_parameters() if p.ndim == 2}
    biases = sum(p.nbytes for p in Net().parameters() if p.ndim == 1)
    whole = biases + sum(p.nbytes for p in weights.values())
    values = biases + sum(4 * round(0.05 * p.numel()) for p in weights.values())
    factors = biases + sum(4 * 2 * (p.shape[0] + p.shape[1]) for p in weights.values())
    for name, want in {"dense": whole, "PowerSGD": factors}.items():
        assert [each[name][1] for each in seen] == [STEPS * want] * len(seen)
        if name != "dense":
            assert [each[f"ErrorFeedback+{name}"][1] for each in seen] == [STEPS * want] * len(seen)
    for name in ("TopK", "ErrorFeedback+TopK"):  # and a byte or two a place, and headers bucket by bucket
        (sent,) = {each[name][1] for each in seen}
        assert STEPS * values < sent < STEPS * (biases + 1.6 * (values - biases))


@pytest.mark.parametrize("name", [name for name in RULES if name.startswith("Error")])
def test_a_resumed_run_is_the_one_that_was_not_stopped(seen, name):
    for each in seen:
        for got, want in zip(each["resume"][name], each[name][0][3:], strict=True):
            if len(seen) == 2:  # a sum of two has one order, whatever the buckets
                assert same(got, want)
            torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_every_parameter_gets_its_own_mean_before_and_after_buckets_are_rebuilt(seen):
    for each in seen:
        buckets, right = each["names"]
        assert all(right)
        assert len(right) == 4 * len(list(Net().parameters()))
        assert buckets == seen[0]["names"][0]  # the same order on all workers
        assert sorted(buckets[0]) == sorted(weights_of(Net()))  # one bucket in the first step,
        assert len(buckets) >= 1 + 3 * 2  # two at least in those that follow


def test_nothing_is_lost_of_a_branch_that_rests(seen):
    for n in weights_of(Net()):
        own = torch.stack([each["unused"][1][n] for each in seen]).mean(0)
        kept = torch.stack([each["unused"][2][n] for each in seen]).mean(0)
        for each in seen:
            torch.testing.assert_close(each["unused"][0][n] + kept, own, atol=1e-6, rtol=1e-5)


def test_without_sync_nothing_is_sent_and_then_the_sum_once(seen):
    model = Net()
    for rank in range(len(seen)):
        for step in range(3):
            (model(batch(step, rank)).square().mean() / len(seen)).backward()
    for each in seen:
        silent, sent, grads = each["no_sync"]
        assert (silent, sent) == (0, sum(p.nbytes for p in model.parameters()))
        torch.testing.assert_close(grads, grads_of(model), atol=1e-6, rtol=1e-5)


def test_messages_are_packed_averaged_and_counted(seen):
    size = len(seen)
    for rank, each in enumerate(seen):
        mean, half, gathered, ragged, sent, place = each["messages"]
        assert place == (size, rank)
        torch.testing.assert_close(mean[0], torch.full((2,), (size - 1) / 2))
        for got in (mean[1], half[0]):  # the sum would overflow
            torch.testing.assert_close(got, torch.tensor(6e4, dtype=torch.float16))
        assert [[t.tolist() for t in row] for row in gathered] == [
            [[r], True, [1.5 + r]] for r in range(size)
        ]
        assert [[t.tolist() for t in row] for row in ragged] == [[[float(r)] * r, r] for r in range(size)]
        longest = 4 * (size - 1) + 8
        assert sent == 3 * 4 + 2 + longest + (4 + 1 + 4)


def test_an_error_on_one_worker_is_raised_on_all(processes):
    assert "KeyError: 'on the first worker alone'" in processes[0]["error"]
    for other in processes[1:]:
        assert other["error"] != "no error"


def test_a_model_on_a_part_of_the_processes_needs_a_group(processes):
    assert processes[0]["part"].startswith("compress_ddp: the model lives on 2 of 3 processes")
