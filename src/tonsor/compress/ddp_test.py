import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import ErrorFeedback, TopK, compress_ddp, compress_fsdp, dense


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def wrapped(module, *, bucket_cap_mb=1e-4, **options):
    return DistributedDataParallel(module, bucket_cap_mb=bucket_cap_mb, **options)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))


def test_an_error_of_the_compressor_is_raised_by_backward_and_ever_after():
    calls = []

    def broken(grads, comm):
        calls.append(list(grads))
        if len(calls) == 2:
            raise KeyError("my own mistake")
        return dense(grads, comm)

    model = wrapped(net())
    compress_ddp(model, broken)
    model(torch.ones(2, 6)).sum().backward()  # the first step has one bucket
    with pytest.raises(RuntimeError, match="KeyError: 'my own mistake'"):
        model(torch.ones(2, 6)).sum().backward()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"an earlier bucket failed \(KeyError"):
            model(torch.ones(2, 6)).sum().backward()
    assert len(calls) == 2  # after the error nothing is sent


def test_a_sparse_gradient_is_refused_with_its_name():
    model = DistributedDataParallel(nn.Sequential(nn.Embedding(5, 3, sparse=True)))
    compress_ddp(model, dense)
    with pytest.raises(ValueError, match=r"gradient of '0\.weight' is sparse"):
        model(torch.tensor([1, 2])).sum().backward()


def test_one_worker_gets_what_the_rule_gives_for_its_gradients():
    plain, model = net(), wrapped(net())
    comm = compress_ddp(model, ErrorFeedback(TopK(density=0.1)))
    rule = ErrorFeedback(TopK(density=0.1))
    for step in range(3):
        x = torch.full((2, 6), 1.0 + step)
        for each in (plain, model):
            each.zero_grad()
            each(x).square().sum().backward()
        want = rule({name: p.grad for name, p in plain.named_parameters()}, comm).mean
        for name, parameter in model.module.named_parameters():
            torch.testing.assert_close(parameter.grad, want[name])
    assert comm.bytes_sent == 0


def test_the_compressor_sees_no_graph_and_names_without_a_prefix():
    seen = {}

    def look(grads, comm):
        seen.update({name: (grad.requires_grad, torch.is_grad_enabled()) for name, grad in grads.items()})
        return dense(grads, comm)

    model = wrapped(net())
    compress_ddp(model, look)
    model(torch.ones(2, 6)).sum().backward()
    assert seen == {name: (False, False) for name, _ in net().named_parameters()}


def test_a_bucket_is_averaged_while_backward_goes_on():
    reached, waited = threading.Event(), []

    def wait(grads, comm):
        waited.append(reached.wait(5))  # in the second step backward gets there after its first bucket
        return dense(grads, comm)

    model = wrapped(net())
    compress_ddp(model, wait)
    x = torch.ones(2, 6, requires_grad=True)
    x.register_hook(lambda _: reached.set())
    model(x).sum().backward()
    reached.clear()
    waited.clear()
    model(x).sum().backward()
    assert len(waited) >= 2
    assert all(waited)


def test_a_tied_weight_has_one_name():
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    names = []
    model = wrapped(tied)
    compress_ddp(model, lambda grads, comm: names.extend(grads) or dense(grads, comm))
    model(torch.ones(1, 4)).sum().backward()
    assert names == ["0.weight"]
    assert tied[0].weight.grad is not None


def trained(model, steps=3, times=1.0):
    """Return the gradients of each step."""
    seen = []
    for step in range(steps):
        model.zero_grad()
        (times * model(torch.full((2, 6), 1.0 + step)).square().sum()).backward()
        seen.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    return seen


@pytest.mark.parametrize("outside", [True, False])
def test_a_compiled_model_is_compressed_under_its_plain_names(outside):
    rules = [ErrorFeedback(TopK(density=0.1)) for _ in range(2)]
    plain = wrapped(net())
    compress_ddp(plain, rules[0])
    inner = net() if outside else torch.compile(net(), backend="eager")
    model = wrapped(inner, bucket_cap_mb=2)  # a compiled one takes no smaller buckets than of 1 MB
    compiled = torch.compile(model, backend="eager") if outside else model
    comm = compress_ddp(compiled, rules[1])
    for want, got in zip(trained(plain), trained(compiled), strict=True):
        torch.testing.assert_close(list(got.values()), list(want.values()))
    want, got = (rule.state_dict()["residuals"] for rule in rules)
    assert sorted(got) == sorted(dict(net().named_parameters()))
    torch.testing.assert_close(got, want)
    assert comm.traffic().steps == 3


def test_what_cannot_be_compressed_is_refused_before_anything_happens(monkeypatch):
    with pytest.raises(
        ValueError, match=r"got a Sequential, expected a DistributedDataParallel.*compress_fsdp"
    ):
        compress_ddp(net(), dense)
    with pytest.raises(ValueError, match=r"got a Sequential, expected a model under .*compress_ddp"):
        compress_fsdp(net(), dense)
    model = wrapped(net())
    monkeypatch.setattr(model, "mixed_precision", object())
    with pytest.raises(ValueError, match=r"use torch\.autocast instead"):
        compress_ddp(model, dense)
    with (
        torch._dynamo.config.patch(optimize_ddp="python_reducer"),
        pytest.raises(ValueError, match="'python_reducer', which compiles the averaging itself"),
    ):
        compress_ddp(wrapped(net()), dense)


def test_a_frozen_parameter_has_no_residual_and_begins_one_when_it_is_freed():
    rule, module = ErrorFeedback(TopK(density=0.1)), net()
    module[0].requires_grad_(False)
    model = wrapped(module)
    compress_ddp(model, rule)
    trained(model)
    kept = rule.state_dict()["residuals"]
    assert sorted(kept) == ["2.bias", "2.weight"]
    module[0].requires_grad_(True)  # torch wants a new wrapper then
    freed = wrapped(module)
    compress_ddp(freed, rule)
    trained(freed)
    assert len(rule.state_dict()["residuals"]) == 4
    assert not torch.equal(rule.state_dict()["residuals"]["2.weight"], kept["2.weight"])


def test_a_parameter_frozen_under_way_keeps_its_residual():
    rule, module = ErrorFeedback(TopK(density=0.1)), net()
    model = wrapped(module, find_unused_parameters=True)
    compress_ddp(model, rule)
    trained(model)
    before = rule.state_dict()["residuals"]
    module[0].requires_grad_(False)
    trained(model)
    assert torch.equal(rule.state_dict()["residuals"]["0.weight"], before["0.weight"])
    assert not torch.equal(rule.state_dict()["residuals"]["2.weight"], before["2.weight"])
    module[0].requires_grad_(True)
    trained(model)
    assert not torch.equal(rule.state_dict()["residuals"]["0.weight"], before["0.weight"])


def test_a_rule_sees_gradients_without_the_loss_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    rules, models = [ErrorFeedback(TopK(density=0.1)) for _ in range(2)], [wrapped(net()) for _ in range(2)]
    compress_ddp(models[0], rules[0])
    compress_ddp(models[1], rules[1], scaler=scaler)
    for want, got in zip(trained(models[0]), trained(models[1], times=4096.0), strict=True):
        torch.testing.assert_close(got, {n: 4096 * g for n, g in want.items()}, rtol=0, atol=0)
    residuals = [rule.state_dict()["residuals"] for rule in rules]
    torch.testing.assert_close(residuals[1], residuals[0], rtol=0, atol=0)


def test_nothing_is_lost_where_no_sync_was_forgotten_between_two_backwards():
    rule, model, plain = ErrorFeedback(TopK(density=0.1)), wrapped(net()), net()
    compress_ddp(model, rule)
    for step in range(3):
        for each in (model, plain):
            each(torch.full((2, 6), 1.0 + step)).square().sum().backward()
    kept = rule.state_dict()["residuals"]
    for name, parameter in model.module.named_parameters():
        total = dict(plain.named_parameters())[name].grad
        torch.testing.assert_close(parameter.grad + kept[name], total, rtol=1e-5, atol=1e-5)
        assert parameter.ndim == 1 or kept[name].any()
