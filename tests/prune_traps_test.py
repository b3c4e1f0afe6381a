"""Known traps of other pruning tools: what masks do to a model that is copied, saved, compiled, exported."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn

import tonsor
from tonsor.prune import (
    Channel,
    Pruner,
    apply_masks_,
    find_masks,
    local,
    magnitude,
    mask_gradients_,
    n_of_m,
)
from tonsor.schedule import constant
from tonsor.shrink import channel_groups, shrink_


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10)
    )


def weights_of(model):
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


def pruned(sparsity=0.9, seed=0):
    """Return a model whose weights were trained for a step and pruned, its pruner and its optimizer."""
    model = network(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruner = Pruner(weights_of(model), find_masks, schedule=partial(constant, final=sparsity))
    tonsor.attach(optimizer, masks=pruner)
    step(model, optimizer)
    return model, pruner, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(6, 3, 4, 4)).square().mean().backward()
    optimizer.step()


def sparsity_of(model):
    weights = weights_of(model).values()
    return 1 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def test_a_pruned_model_its_pruner_and_its_optimizer_can_be_copied_deeply():
    model, pruner, optimizer = pruned()
    twin, twins_pruner = copy.deepcopy((model, pruner))
    assert sparsity_of(twin) == sparsity_of(model) == pytest.approx(0.9, abs=1e-3)
    with torch.no_grad():
        twin[0].weight.fill_(1.0)
    assert twins_pruner.parameters["0.weight"] is twin[0].weight
    twins_pruner.step()
    assert sparsity_of(twin) == sparsity_of(model)
    assert copy.deepcopy(optimizer.state_dict()).keys() == optimizer.state_dict().keys()


def test_the_keys_of_the_state_dict_are_those_of_the_dense_model_and_both_load_into_each_other():
    dense, (model, _, _) = network(), pruned()
    assert list(model.state_dict()) == list(dense.state_dict())
    dense.load_state_dict(model.state_dict())
    assert sparsity_of(dense) == sparsity_of(model)
    model.load_state_dict(network(1).state_dict())
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in dense.named_buffers()]
    assert not any(m._forward_pre_hooks or hasattr(m, "parametrizations") for m in model.modules())


def test_the_saved_model_is_as_large_as_the_dense_one():
    sizes = []
    for model in (network(), pruned()[0]):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        sizes.append(len(file.getvalue()))
    assert sizes[0] == sizes[1]


def test_sparsity_is_relative_to_the_whole_so_that_half_twice_is_half():
    weights = weights_of(network())
    once = find_masks(weights, 0.5)
    twice = find_masks(weights, 0.5, within=once)
    assert all(torch.equal(twice[name], mask) for name, mask in once.items())
    three_quarters = find_masks(weights, 0.75, within=once)
    gone = sum(int((~mask).sum()) for mask in three_quarters.values())
    assert gone == round(0.75 * sum(w.numel() for w in weights.values()))


@pytest.mark.parametrize("everything", [1, 1.0, 5, True])
def test_one_is_refused_whether_it_is_written_1_or_1_0(everything):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        find_masks({"w": torch.ones(10)}, everything)


def test_of_a_constant_weight_just_the_tenth_goes_that_was_asked_for():
    assert int(find_masks({"w": torch.ones(1000)}, 0.1)["w"].sum()) == 900


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_under_a_mask_becomes_zero(bad):
    weight, mask = torch.tensor([1.0, bad], requires_grad=True), torch.tensor([True, False])
    weight.grad = torch.tensor([2.0, bad])
    mask_gradients_({"w": weight}, {"w": mask})
    apply_masks_({"w": weight}, {"w": mask})
    assert weight.tolist() == [1.0, 0.0]
    assert weight.grad.tolist() == [2.0, 0.0]


def test_the_default_removes_single_weights_and_not_blocks_of_four():
    weight = torch.arange(1.0, 65.0).view(8, 8)[torch.randperm(8)].t().contiguous()
    mask = find_masks({"w": weight}, 0.5)["w"]
    assert torch.equal(mask, weight > 32)
    left = mask.view(8, 2, 4).sum(-1)
    assert ((left > 0) & (left < 4)).any()


def test_runs_of_n_of_m_go_along_the_input_and_a_short_last_one_is_filled_up():
    weight = torch.arange(1.0, 13.0).view(2, 6)
    mask = find_masks({"w": weight}, 0.5, scope=n_of_m)["w"]
    assert torch.equal(mask, torch.tensor([[False, False, True, True, True, True]] * 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pruned_model_can_be_scripted_and_traced():
    model = pruned()[0].eval()
    x = torch.randn(2, 3, 4, 4)
    for made in (torch.jit.script(model), torch.jit.trace(model, x)):
        torch.testing.assert_close(made(x), model(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_a_compiled_model_is_pruned_and_trains_on():
    model = network()
    compiled = torch.compile(
        model, backend="aot_eager"
    )  # traced as a whole; only the kernels are torch's own
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruner = Pruner(weights_of(model), find_masks, schedule=partial(constant, final=0.5), every=2)
    tonsor.attach(optimizer, masks=pruner)
    for _ in range(4):
        step(compiled, optimizer)
    masks = pruner.masks
    assert sparsity_of(model) == pytest.approx(0.5, abs=1e-3)
    before = model[0].weight.detach().clone()
    step(compiled, optimizer)
    assert (model[0].weight != before)[masks["0.weight"]].all()
    x = torch.randn(2, 3, 4, 4)
    model.eval()
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_exported_program_has_no_multiplication_by_a_mask():
    x = (torch.randn(2, 3, 4, 4),)
    dense, model = (torch.export.export(m.eval(), x) for m in (network(), pruned()[0]))
    assert [n.target for n in model.graph.nodes] == [n.target for n in dense.graph.nodes]
    assert not any("mul" in str(n.target) for n in model.graph.nodes)
    assert model.state_dict.keys() == dense.state_dict.keys()


def test_the_output_projection_of_attention_is_really_pruned_and_goes_on_training():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights = {"out_proj.weight": model.out_proj.weight}
    pruner = Pruner(weights, find_masks, schedule=partial(constant, final=0.5))
    tonsor.attach(optimizer, masks=pruner)
    x = torch.randn(4, 5, 8)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        model(x, x, x)[0].square().mean().backward()
        optimizer.step()
        seen.append(model.out_proj.weight.detach().clone())
    mask = pruner.masks["out_proj.weight"]
    assert int(mask.sum()) == 32
    assert all((weight[~mask] == 0).all() for weight in seen)
    assert (seen[2][mask] != seen[1][mask]).all()
    with torch.no_grad():
        before = model(x, x, x)[0]
        model.out_proj.weight.zero_()
        after = model(x, x, x)[0]
    assert not torch.equal(before, after)  # the forward uses the weight that was pruned
    torch.testing.assert_close(after, model.out_proj.bias.expand_as(after))


class Residual(nn.Module):
    """A stem whose channels are also fed to a sum, which hides them from tools that look at chains."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.body(x)).relu()
        return self.head(x.mean((2, 3)))


def test_half_of_the_channels_that_a_residual_ties_together_really_go():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(2, 3, 6, 6)
    groups = channel_groups(model, x)
    masks = find_masks(weights_of(model), 0.5, importance=magnitude, pattern=groups, scope=local)
    apply_masks_(dict(model.named_parameters()), masks)
    shrink_(model, groups, masks)
    assert model.stem.weight.shape == (4, 3, 3, 3)
    assert model.body.weight.shape == (4, 4, 3, 3)
    assert model.head.weight.shape == (2, 4)


def test_tied_weights_are_pruned_once_and_stay_tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 12, bias=False))
    model[1].weight = model[0].weight
    weights = weights_of(model)
    assert list(weights) == ["0.weight"]
    apply_masks_(weights, find_masks(weights, 0.5))
    assert model[1].weight is model[0].weight
    assert int((model[1].weight == 0).sum()) == 36


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_channels_go_in_every_precision(dtype):
    weight = torch.randn(8, 4, dtype=dtype)
    mask = find_masks({"w": weight}, 0.5, pattern=Channel())["w"]
    apply_masks_({"w": weight}, {"w": mask})
    assert int((weight == 0).all(1).sum()) == 4
    assert weight.dtype is dtype
