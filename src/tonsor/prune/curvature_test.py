"""Importances of curvature: against the brute-force loss on a quadratic, and the papers' own recursions."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.prune import collect, find_masks, grasp, needs, obd, obs, obs_update_
from tonsor.prune.from_curvature import HessianGradient


def quadratic(seed=0, size=6):
    """Return a curvature and the weights at its minimum."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size), rng.normal(size=size)


def cheapest(curvature, weight, gone):
    """Return the lowest point of the quadratic where the weights of a set are zero, and its height."""
    stays = [j for j in range(len(weight)) if j not in gone]
    change = -weight * np.isin(np.arange(len(weight)), gone)
    force = curvature[np.ix_(stays, gone)] @ change[gone]
    change[stays] = -np.linalg.lstsq(curvature[np.ix_(stays, stays)], force, rcond=None)[0]
    return weight + change, change @ curvature @ change / 2


def test_obd_is_the_change_of_a_quadratic_without_cross_terms():
    weight, diagonal = np.array([1.0, -2.0, 3.0]), np.array([4.0, 0.5, 1.0])
    oracle = [w * h * w / 2 for w, h in zip(weight, diagonal, strict=True)]
    np.testing.assert_allclose(obd(torch.tensor(weight), torch.tensor(diagonal)), oracle)


@pytest.mark.parametrize("seed", range(3))
def test_obs_is_the_least_loss_at_which_a_weight_can_go(seed):
    curvature, weight = quadratic(seed)
    inverse = torch.tensor(np.linalg.inv(curvature)).unsqueeze(0)
    oracle = [cheapest(curvature, weight, [j])[1] for j in range(6)]
    np.testing.assert_allclose(obs(torch.tensor(weight), inverse), oracle, rtol=1e-8)


@pytest.mark.parametrize("gone", [[2], [0, 5], [1, 2, 3], [0, 1, 2, 3, 4, 5], []])
def test_the_update_goes_to_the_lowest_point_that_the_masks_leave(gone):
    curvature, weight = quadratic()
    weights = {"w": torch.tensor(weight).view(2, 3)}
    masks = {"w": torch.tensor(~np.isin(np.arange(6), gone)).view(2, 3)}
    obs_update_(weights, masks, {"w": {"inverse_fisher": torch.tensor(np.linalg.inv(curvature))[None]}})
    oracle = cheapest(curvature, weight, gone)[0]
    np.testing.assert_allclose(weights["w"].flatten(), oracle, rtol=1e-8, atol=1e-12)
    assert (weights["w"][~masks["w"]] == 0).all()


def test_the_update_of_one_weight_is_the_step_of_the_paper():
    curvature, weight = quadratic()
    inverse = np.linalg.inv(curvature)
    weights, mask = {"w": torch.tensor(weight)}, torch.arange(6) != 4
    obs_update_(weights, {"w": mask}, {"w": {"inverse_fisher": torch.tensor(inverse)[None]}})
    step = -weight[4] / inverse[4, 4] * inverse[:, 4]
    np.testing.assert_allclose(weights["w"], weight + step, rtol=1e-8, atol=1e-12)


def regression(seed=0):
    """Return a net, batches, and the gradient of the squared error of every sample."""
    rng = np.random.default_rng(seed)
    weight, x, y = rng.normal(size=(2, 5)), rng.normal(size=(70, 5)), rng.normal(size=(70, 2))
    model = nn.Linear(5, 2, bias=False).double()
    model.weight.data = torch.tensor(weight)
    error = x @ weight.T - y
    gradients = 2 / y.shape[1] * np.einsum("no,ni->noi", error, x).reshape(70, 10)
    batches = [(torch.tensor(x[a:b]), torch.tensor(y[a:b])) for a, b in pairwise((0, 33, 70))]
    return model, batches, gradients


def woodbury(gradients, damping):
    """Return the inverse Fisher as the paper builds it, sample by sample (Sherman-Morrison)."""
    inverse = np.eye(gradients.shape[1]) / damping
    for g in gradients:
        along = inverse @ g
        inverse = inverse - np.outer(along, along) / (len(gradients) + g @ along)
    return inverse


@pytest.mark.parametrize("block", [1, 4, 10, 64])
def test_the_inverse_fisher_is_that_of_the_papers_recursion(block):
    model, batches, gradients = regression()
    settings = {"inverse_fisher": {"damping": 0.1, "block": block}}
    found = collect(model, batches, names=["inverse_fisher"], loss=nn.functional.mse_loss, settings=settings)[
        "weight"
    ]["inverse_fisher"]
    size = min(block, 10)
    filled = np.pad(gradients, ((0, 0), (0, -10 % size)))
    oracle = [woodbury(filled[:, a : a + size], 0.1) for a in range(0, 10, size)]
    np.testing.assert_allclose(found, oracle, rtol=1e-8, atol=1e-12)


def test_surgeon_with_update_loses_less_than_damage_without():
    model, batches, _ = regression(1)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    solution = torch.linalg.lstsq(x, y).solution.T
    losses = {}
    for importance in (obd, obs):
        weights = {"weight": model.weight}
        model.weight.data = solution.clone()
        names = needs(importance)
        stats = collect(model, batches, names=names, loss=nn.functional.mse_loss)
        masks = find_masks(weights, 0.4, stats=stats, importance=importance)
        if importance is obs:
            obs_update_(weights, masks, stats)
        losses[importance] = nn.functional.mse_loss(x @ (model.weight * masks["weight"]).T, y).item()
    assert losses[obs] < losses[obd]


def test_mistakes_of_the_update_change_nothing():
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    masks = {name: torch.tensor([True, False]) for name in weights}
    stats = {"a": {"inverse_fisher": torch.eye(2)[None]}}
    with pytest.raises(ValueError, match=r"'b' needs 'inverse_fisher'; give stats=collect"):
        obs_update_(weights, masks, stats)
    with pytest.raises(ValueError, match="unknown weight 'c'"):
        obs_update_(weights, {"a": masks["a"], "c": masks["a"]}, stats)
    assert all((weight == 1).all() for weight in weights.values())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"inverse_fisher": {"damping": 0.0}}, "damping above 0 .* got damping=0.0"),
        ({"inverse_fisher": {"blocks": 3}}, "unknown key 'blocks'; did you mean 'block'"),
        ({"invers_fisher": {}}, "in settings: unknown statistic 'invers_fisher'; did you mean"),
    ],
)
def test_a_wrong_setting_is_told(settings, says):
    model, batches, _ = regression()
    with pytest.raises(ValueError, match=says):
        collect(model, batches, names=["inverse_fisher"], loss=nn.functional.mse_loss, settings=settings)


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
