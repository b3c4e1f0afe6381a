"""GraSP against the Hessian of the mean loss, and against the strength of the gradient itself."""

from functools import partial

import torch
from torch import nn

from tonsor.prune import collect, grasp, needs
from tonsor.prune.from_curvature import HessianGradient


def bent():
    """Return a small net whose loss is no quadratic, its batches, and the mean loss of flat weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [(torch.randn(n, 3).double(), torch.randint(2, (n,))) for n in (5, 5)]
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}

    def loss(flat):
        parts = flat.split([weight.numel() for weight in weights.values()])
        new = {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}
        outputs = [torch.func.functional_call(model, new, x) for x, _ in batches]
        pairs = zip(outputs, batches, strict=True)
        return torch.stack([nn.functional.cross_entropy(out, y) for out, (_, y) in pairs]).mean()

    return model, batches, weights, loss


def scores_of_grasp(model, batches):
    found = collect(model, batches, names=needs(grasp), loss=nn.functional.cross_entropy)
    scores = [grasp(model.get_parameter(name), stats["hessian_gradient"]) for name, stats in found.items()]
    return torch.cat([score.flatten() for score in scores])


def test_grasp_is_the_weight_times_hessian_times_gradient_over_all_batches():
    model, batches, weights, loss = bent()
    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    slope = torch.autograd.functional.jacobian(loss, flat)
    curvature = torch.autograd.functional.hessian(loss, flat)
    torch.testing.assert_close(scores_of_grasp(model, batches), flat * (curvature @ slope))


def test_what_grasp_scores_low_strengthens_the_gradient_when_it_shrinks():
    """The squared norm of the gradient falls by twice the score, to first order, where a weight goes."""
    model, batches, weights, loss = bent()
    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    strength = [
        torch.autograd.functional.jacobian(loss, flat - 1e-6 * flat * (torch.arange(len(flat)) == j))
        .square()
        .sum()
        - torch.autograd.functional.jacobian(loss, flat).square().sum()
        for j in range(len(flat))
    ]
    slope = torch.stack(strength) / 1e-6
    torch.testing.assert_close(scores_of_grasp(model, batches), -slope / 2, rtol=1e-3, atol=1e-7)


def test_grasp_goes_through_attention_and_leaves_its_fused_form_switched_on():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 12)

        def forward(self, x):
            q, k, v = self.inner(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v)

    flags = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    batch = torch.randn(2, 5, 4), None
    model = Attention()
    found = collect(model, [batch], names=needs(grasp), loss=lambda out, _: out.square().mean())
    assert found["inner.weight"]["hessian_gradient"].abs().sum() > 0
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()) == flags


def test_a_tied_weight_is_one_variable_under_all_its_names():
    first = nn.Linear(3, 3, bias=False).double()
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = first.weight
    batch = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    gather = partial(collect, model, [batch], names=needs(grasp), loss=nn.functional.mse_loss)
    once, twice = gather(weights=["0.weight"]), gather(weights=["0.weight", "2.weight"])
    for found in twice.values():
        torch.testing.assert_close(found, once["0.weight"])


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature():
    weight = torch.ones(2, requires_grad=True)
    gathered = HessianGradient(nn.Module(), {"w": weight})
    gathered.add(weight.sum())
    gathered.close()
    assert gathered.result()["w"].tolist() == [0.0, 0.0]
