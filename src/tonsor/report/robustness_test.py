"""Corruptions and attacks are what they are said to be, and fall on all models alike."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from tonsor.report import fgsm, robustness
from tonsor.report.corruptions import FOR_IMAGES, FOR_TABLES, STRENGTHS, blur, contrast, noise, shift

RULES = {**FOR_IMAGES, **FOR_TABLES}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def images(count=6, channels=2, height=12, width=10, seed=0):
    """Return smooth pictures, as real ones are."""
    drawn = torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(drawn, 3, 1, 1)


def classifier(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def made(seed=0):
    model = classifier(seed)
    model.eval()(images())
    return model.train()


@every_rule
def test_a_corruption_keeps_shape_type_and_the_state_of_chance_and_says_the_same_twice(rule):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = images().to(dtype)
        before, state = x.clone(), torch.get_rng_state()
        first, second = rule(x, 3), rule(x, 3)
        assert first.shape == x.shape
        assert first.dtype is dtype
        assert torch.equal(first, second)
        assert torch.equal(x, before)
        assert torch.equal(torch.get_rng_state(), state)


@every_rule
def test_a_stronger_corruption_is_farther_from_the_original(rule):
    x = images()
    distances = [(rule(x, strength) - x).norm().item() for strength in range(1, STRENGTHS + 1)]
    assert distances == sorted(distances)
    assert distances[0] > 0


@every_rule
@pytest.mark.parametrize("strength", [0, 6, -1])
def test_a_strength_that_is_none_is_refused(rule, strength):
    with pytest.raises(ValueError, match="1 to 5"):
        rule(images(), strength)


def test_noise_is_gaussian_of_the_size_it_says():
    x = images(40, 3, 32, 32) * 7
    z = ((noise(x, 4) - x) / (0.7 * x.std(correction=0))).double()
    assert z.mean().abs() < 0.01
    assert z.std().item() == pytest.approx(1, abs=0.01)
    assert (z.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=0.01)


def test_blur_is_scipys():
    x = images(2, 3, 30, 40).double()
    spread = 0.06 * 30
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, spread, spread), mode="nearest", radius=(0, 0, 6, 6))
    np.testing.assert_allclose(blur(x, 3).numpy(), expected, atol=1e-6)


def test_contrast_keeps_the_mean_of_each_image_and_shrinks_its_spread():
    x = images()
    flat = contrast(x, 4)
    torch.testing.assert_close(flat.flatten(1).mean(1), x.flatten(1).mean(1))
    torch.testing.assert_close(flat.flatten(1).std(1), 0.2 * x.flatten(1).std(1))


def test_shift_is_scipys():
    x = images(5, 1, 20, 30)
    turn = 2 * np.pi * torch.rand(5, generator=torch.Generator().manual_seed(3)).numpy()
    moved = shift(x, 5, seed=3)
    for number, angle in enumerate(turn):
        offset = (-4 * np.sin(angle), -4 * np.cos(angle))
        expected = ndimage.shift(x[number, 0].numpy(), offset, order=1, mode="nearest")
        np.testing.assert_allclose(moved[number, 0].numpy(), expected, atol=1e-4)


def test_the_attack_on_a_linear_classifier_is_the_sign_of_its_weights():
    """Two classes: the gradient of the loss lies along the difference of their weights."""
    layer = nn.Linear(6, 2).double()
    x = torch.rand(9, 6, dtype=torch.float64)
    targets = torch.arange(9) % 2
    apart = (layer.weight[0] - layer.weight[1]).detach()
    away = torch.where(targets[:, None] == 0, -apart.sign(), apart.sign())
    expected = (x + 0.1 * (x.max() - x.min()) * away).clamp(x.min(), x.max())
    torch.testing.assert_close(fgsm(layer, x, targets, epsilon=0.1), expected)


def test_the_attack_raises_the_loss_and_leaves_the_model_alone():
    model, x = made(), images()
    targets = torch.arange(6) % 3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    worse = fgsm(model, x, targets, epsilon=0.1)
    model.eval()
    loss = [nn.functional.cross_entropy(model(inputs), targets).item() for inputs in (x, worse)]
    assert loss[1] > loss[0]
    assert x.min() <= worse.min()
    assert worse.max() <= x.max()
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_model_is_asked_with_the_same_samples():
    seen = {"a": [], "b": []}

    class Watched(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            if not torch.is_grad_enabled():
                seen[self.name].append(x.clone())
            return x.flatten(1)[:, :3]

    robustness({"a": Watched("a"), "b": Watched("b")}, images(), torch.arange(6) % 3, epsilons=[])
    assert len(seen["a"]) == 4 * STRENGTHS + 1
    assert all(torch.equal(x, y) for x, y in zip(seen["a"], seen["b"], strict=True))


def test_the_figures_are_accuracies_of_the_corrupted_samples_and_models_are_left_alone():
    models, x, targets = {"dense": made(), "masked": made(1)}, images(), torch.arange(6) % 3
    found = robustness(models, x, targets, epsilons=[0.0, 0.1])
    assert all(model.training for model in models.values())
    for name, model in models.items():
        model.eval()
        assert found["clean"][name] == (model(x).argmax(1) == targets).double().mean()
        for kind, rule in FOR_IMAGES.items():
            expected = [(model(rule(x, s)).argmax(1) == targets).double().mean() for s in range(1, 6)]
            assert found["corruptions"][kind][name] == expected
        assert found["fgsm"][name][0] == found["clean"][name]
    assert robustness(models, x, targets, epsilons=[0.0, 0.1]) == found


def test_flat_images_are_seen_as_images_where_their_shape_is_given():
    x, targets = images(), torch.arange(6) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 3))
    flat = robustness({"m": model}, x.flatten(1), targets, shape=(2, 12, 10))
    assert flat == robustness({"m": model}, x, targets)
    assert set(robustness({"m": model}, x.flatten(1), targets)["corruptions"]) == set(FOR_TABLES)


def test_what_cannot_be_made_worse_is_told():
    model, targets = nn.Identity(), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"inputs must be floats.*torch\.int64"):
        robustness({"m": model}, torch.ones(2, 3, dtype=torch.int64), targets)
    with pytest.raises(ValueError, match="at least one sample"):
        robustness({"m": model}, torch.ones(0, 3), targets[:0])
    with pytest.raises(ValueError, match=r"of 3 values; got \(1, 2, 2\)"):
        robustness({"m": model}, torch.ones(2, 3), targets, shape=(1, 2, 2))
