"""A recipe puts a clipping rule together from a measure, a threshold and an action."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from tonsor.clip import ACTIONS, MEASURES, THRESHOLDS, Clip, Percentile, PerTensor, fixed, relative, skip
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.build import methods
from tonsor.recipe.schema import Training


def bound(**settings):
    mistakes = Mistakes()
    found = methods(Training(clip={"rule": "Clip", **settings}), "train", mistakes).clip
    return found, mistakes.found


def clipped(rule):
    """Return the gradients of two weights after three steps."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.ones(2, 3, requires_grad=True) for _ in range(2)]
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(2, 3, generator=generator)
        rule(weights)
    return torch.stack([weight.grad for weight in weights])


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_product_can_be_named(measure, threshold, action):
    rule, mistakes = bound(measure=measure, threshold=threshold, action=action)
    assert mistakes == []
    assert isinstance(rule, Clip)
    assert clipped(rule).isfinite().all()


def test_the_parts_are_tuned_and_joined_as_by_hand():
    rule, mistakes = bound(
        measure={"rule": "PerTensor", "by": "rms"}, threshold={"rule": "Percentile", "percentile": 50}
    )
    assert mistakes == []
    assert torch.equal(clipped(rule), clipped(Clip(PerTensor(by="rms"), Percentile(percentile=50))))
    assert repr(bound(measure="PerTensor")[0]) == repr(Clip(PerTensor()))
    assert bound(measure="PerTensor")[0]._threshold is fixed


def test_a_part_in_the_middle_keeps_its_default():
    rule, mistakes = bound(measure="PerUnit", action="skip")
    assert mistakes == []
    assert (rule._threshold, rule._action) == (fixed, skip)
    assert bound(measure="PerUnit", threshold="relative")[0]._threshold is relative


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "train.clip: key 'measure' must be a rule, as { rule = ... }; got None"),
        ({"measure": "PerTenso"}, "train.clip.measure: unknown rule 'PerTenso'; did you mean 'PerTensor'?"),
        (
            {"measure": "Whole", "action": "scle"},
            "train.clip.action: unknown rule 'scle'; did you mean 'scale'?",
        ),
        (
            {"measure": "Whole", "threshold": {"rule": "Percentile", "percentle": 5}},
            "train.clip.threshold: unknown key 'percentle'; did you mean 'percentile'?",
        ),
        (
            {"measure": "Whole", "threshold": {"rule": "Percentile", "percentile": 101}},
            "train.clip.threshold: clip.Percentile: percentile must lie in [0, 100]; got 101",
        ),
    ],
)
def test_a_mistake_in_a_part_is_told_with_its_place(settings, expected):
    _, mistakes = bound(**settings)
    assert len(mistakes) == 1 and mistakes[0].startswith(expected)


def test_the_guide_shows_a_product_without_mistake():
    text = (Path(__file__).parents[3] / "docs" / "guides" / "clipping.md").read_text()
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    rule, mistakes = bound(**{k: v for k, v in tomllib.loads(shown)["clip"].items() if k != "rule"})
    assert mistakes == []
    assert repr(rule) == repr(Clip(PerTensor(), Percentile(percentile=95.0)))
