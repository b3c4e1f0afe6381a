"""Every importance goes with every pattern and every scope."""

import pytest
import torch

from tonsor.prune import IMPORTANCES, PATTERNS, SCOPES, find_masks, needs
from tonsor.prune.contract_test import example

# Those in the middle hold most units of every pattern, because a scope may spare the first and the last.
WEIGHTS = {"a": (8, 4), "b": (16, 16, 3, 3), "c": (16, 16), "d": (4, 8)}


@pytest.mark.filterwarnings("ignore:prune.find_masks. nothing of")
@pytest.mark.parametrize("importance", IMPORTANCES.values(), ids=IMPORTANCES)
def test_masks_of_rising_sparsity_are_nested_whatever_is_combined(importance):
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in WEIGHTS.items()}
    stats = {
        name: {statistic: example(statistic, weight, generator) for statistic in needs(importance)}
        for name, weight in weights.items()
    }
    for pattern in PATTERNS.values():
        for scope in SCOPES.values():
            given = {"stats": stats, "importance": importance, "pattern": pattern(), "scope": scope}
            more, fewer = (find_masks(weights, sparsity, **given) for sparsity in (0.25, 0.5))
            for name, weight in weights.items():
                assert fewer[name].shape == weight.shape
                assert fewer[name].dtype is torch.bool
                assert not (fewer[name] & ~more[name]).any()
            kept = [sum(int(mask.sum()) for mask in masks.values()) for masks in (more, fewer)]
            assert kept[0] > kept[1]
