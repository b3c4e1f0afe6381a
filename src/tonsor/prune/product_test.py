"""Every importance with every pattern and every scope: the tables combine freely."""

from functools import partial
from itertools import product

import pytest
import torch

from tonsor.prune import IMPORTANCES, PATTERNS, SCOPES, find_masks, thinet
from tonsor.prune.contract_test import example
from tonsor.prune.statistics import arguments

# The first and the last are small, for a scope that spares them; sides divide neither runs nor tiles.
# Only weights with inputs have a score by ThiNet.
SHAPES = {"first": (2, 3), "conv": (6, 5, 3, 3), "linear": (10, 7), "vector": (9,), "last": (3, 2)}
# Exact in each tensor, row or run, not in all together.
INEXACT = {"local", "per_output", "n_of_m", "same_sensitivity"}
every = pytest.mark.parametrize(
    ("importance", "pattern", "scope"), list(product(IMPORTANCES, PATTERNS, SCOPES)), ids=str
)


def setting(importance, ties=False):
    """Return weights, and the statistics that an importance asks for."""
    generator = torch.Generator().manual_seed(0)
    rule = IMPORTANCES[importance]
    shapes = {name: shape for name, shape in SHAPES.items() if len(shape) > 1 or rule is not thinet}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if ties:
        weights = {name: torch.full_like(weight, 0.5) for name, weight in weights.items()}
    stats = {
        name: {statistic: example(statistic, weight, generator) for statistic in arguments(rule)}
        for name, weight in weights.items()
    }
    return weights, stats


@pytest.mark.filterwarnings("ignore:.*nothing of")
@every
@pytest.mark.parametrize("ties", [False, True], ids=["drawn", "ties"])
def test_masks_fit_count_and_nest(importance, pattern, scope, ties):
    weights, stats = setting(importance, ties)
    before = {name: weight.clone() for name, weight in weights.items()}
    rule = PATTERNS[pattern]()
    parts = {"stats": stats, "importance": IMPORTANCES[importance], "pattern": rule, "scope": SCOPES[scope]}
    units = rule.reduce(weights)
    total = sum(unit.numel() for unit in units.values())
    masks = {sparsity: find_masks(weights, sparsity, **parts) for sparsity in (0.0, 0.2, 0.5)}
    for sparsity, found in masks.items():
        assert {name: mask.shape for name, mask in found.items()} == {n: w.shape for n, w in weights.items()}
        assert {mask.dtype for mask in found.values()} == {torch.bool}
        live = rule.reduce({name: mask.float() for name, mask in found.items()})
        kept = sum(int((unit > 0).sum()) for unit in live.values())
        whole = rule.expand({name: unit > 0 for name, unit in live.items()}, weights)
        assert all(torch.equal(whole[name], found[name]) for name in weights)
        assert kept == total - round(sparsity * total) or scope in INEXACT
    assert all(mask.all() for mask in masks[0.0].values())
    assert not any((masks[0.5][name] & ~masks[0.2][name]).any() for name in weights)
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 16), (6, 16, 3, 3), (5, 10), (5, 3, 2)])
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_n_of_m_leaves_at_most_n_of_every_run_along_the_input(importance, shape, n):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    rule = IMPORTANCES[importance]
    stats = {"w": {statistic: example(statistic, weight, generator) for statistic in arguments(rule)}}
    m = 2 * n if n > 1 else 4  # 1:4, 2:4, 4:8
    scope = partial(SCOPES["n_of_m"], n=n, m=m)
    mask = find_masks({"w": weight}, 1 - n / m, stats=stats, importance=rule, scope=scope)["w"]
    lines = mask.movedim(1, -1).reshape(-1, shape[1])
    for start in range(0, shape[1], m):
        run = lines[:, start : start + m]
        assert (run.sum(1) == min(n, run.shape[1])).all()
