"""Attributions against exact gradients, the axioms of the paper, Captum where it is there, and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from tonsor.report import agreement, explanations, integrated_gradients, saliency
from tonsor.report.attribution import ATTRIBUTIONS

every_method = pytest.mark.parametrize("method", ATTRIBUTIONS.values(), ids=ATTRIBUTIONS)


def smooth(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, 3)).double()


def samples(count=7, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLASSES = torch.arange(7) % 3


@pytest.mark.parametrize("baseline", [0.0, -1.5])
def test_integrated_gradients_add_up_to_the_change_of_the_logit(baseline):
    model, x = smooth(), samples()
    found = integrated_gradients(model, x, CLASSES, baseline=baseline)
    model.eval()
    logits = [model(inputs).gather(1, CLASSES[:, None])[:, 0] for inputs in (x, torch.full_like(x, baseline))]
    torch.testing.assert_close(found.sum(1), (logits[0] - logits[1]).detach(), rtol=1e-8, atol=1e-10)


def test_of_a_linear_model_they_are_weight_times_input():
    layer, x = nn.Linear(6, 3).double(), samples()
    torch.testing.assert_close(integrated_gradients(layer, x, CLASSES), layer.weight[CLASSES].detach() * x)
    torch.testing.assert_close(saliency(layer, x, CLASSES), layer.weight[CLASSES].detach().abs())


def test_an_input_the_model_does_not_look_at_gets_nothing():
    model = smooth()
    model[0].weight.data[:, 2] = 0
    for method in ATTRIBUTIONS.values():
        found = method(model, samples(), CLASSES)
        assert (found[:, 2] == 0).all()
        assert (found[:, 3] != 0).all()


def test_saliency_is_the_slope_by_finite_differences():
    model, x, step = smooth().eval(), samples(), 1e-6
    found = saliency(model, x, CLASSES)
    for place in range(6):
        apart = torch.zeros_like(x)
        apart[:, place] = step
        slope = (model(x + apart) - model(x - apart)).gather(1, CLASSES[:, None])[:, 0] / (2 * step)
        torch.testing.assert_close(found[:, place], slope.detach().abs(), rtol=1e-5, atol=1e-7)


def test_captum_finds_the_same():
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, x = smooth().eval(), samples()
    theirs = attr.IntegratedGradients(model).attribute(x, target=CLASSES, n_steps=32)
    torch.testing.assert_close(integrated_gradients(model, x, CLASSES), theirs.detach())
    theirs = attr.Saliency(model).attribute(x.clone().requires_grad_(), target=CLASSES)
    torch.testing.assert_close(saliency(model, x, CLASSES), theirs.detach())


@every_method
def test_the_model_is_left_alone(method):
    model = smooth().train()
    method(model, samples(), CLASSES)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen = smooth().requires_grad_(False)
    assert torch.equal(method(frozen, samples(), CLASSES), method(model, samples(), CLASSES))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_agreement_is_numpys_cosine_and_scipys_spearman():
    first, second = samples(5, 1), samples(5, 2)
    first[0, :3] = 1.0  # ties
    found = agreement(first, second, top=0.34)
    for number in range(5):
        a, b = first[number].numpy(), second[number].numpy()
        assert found["cosine"][number] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert found["spearman"][number] == pytest.approx(stats.spearmanr(a, b).statistic)
        highest = [set(np.argsort(-np.abs(x), kind="stable")[:2]) for x in (a, b)]
        assert found["overlap"][number] == len(highest[0] & highest[1]) / 2


def test_an_attribution_agrees_with_itself_and_not_with_its_opposite():
    found = agreement(samples(), samples())
    assert all(value.allclose(torch.ones(7).double()) for value in found.values())
    found = agreement(samples(), -samples())
    assert found["cosine"].allclose(-torch.ones(7).double())
    assert found["spearman"].allclose(-torch.ones(7).double())


def test_where_there_is_nothing_to_compare_there_is_no_number():
    nothing = torch.zeros(7, 6).double()
    assert all(value.isnan().all() for value in agreement(samples(), nothing).values())
    dead = nn.Linear(6, 3).double()
    dead.weight.data.zero_()
    found = explanations(smooth(), dead, samples())
    assert found["saliency"] == {"cosine": None, "spearman": None, "overlap": None}
    with pytest.raises(ValueError, match="of one shape"):
        agreement(torch.ones(2, 3), torch.ones(2, 4))


def test_explanations_are_quantiles_over_samples_asked_about_the_dense_answer():
    dense, pruned, x = smooth(), smooth(1), samples()
    classes = dense.eval()(x).argmax(1)
    found = explanations(dense, pruned, x)
    for name, method in ATTRIBUTIONS.items():
        apart = agreement(method(dense, x, classes), method(pruned, x, classes))
        for measure, values in apart.items():
            expected = np.percentile(values.numpy(), [10, 50, 90])
            got = found[name][measure]
            np.testing.assert_allclose([got["low"], got["median"], got["high"]], expected)
    same = explanations(dense, dense, x)
    assert all(
        math.isclose(of["median"], 1, abs_tol=1e-9) for method in same.values() for of in method.values()
    )


def test_images_are_taken_as_they_are():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    x = torch.randn(4, 1, 8, 8)
    for method in ATTRIBUTIONS.values():
        assert method(model, x, torch.zeros(4, dtype=torch.int64)).shape == x.shape
    assert explanations(model, model, x)["saliency"]["overlap"]["low"] == 1
