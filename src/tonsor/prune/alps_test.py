from itertools import combinations

import numpy as np
import pytest
import torch

from tonsor.prune import alps, refit
from tonsor.prune.sparsegpt_test import lost, problem


def admm(weight, gram, sparsity, damping, rho=0.1):
    """Return support and weights by the paper's updates, with inverses in place of eigenvectors."""
    h = gram.numpy() + damping * np.diag(gram.numpy()).mean() * np.eye(len(gram))
    scale = np.sqrt(np.diag(h))
    h, dense = h / np.outer(scale, scale), weight.numpy() * scale
    count = round(sparsity * dense.size)

    def project(w):
        lowest = np.argsort((w**2).ravel(), kind="stable")[:count]
        kept = np.ones(w.size, bool)
        kept[lowest] = False
        return kept.reshape(w.shape)

    kept = looked_at = project(dense)
    d, v = dense * kept, np.zeros_like(dense)
    for step in range(1, 301):
        w = (dense @ h - v + rho * d) @ np.linalg.inv(h + rho * np.eye(len(h)))
        kept = project(w + v / rho)
        d = (w + v / rho) * kept
        v = v + rho * (w - d)
        if step % 3 == 0:
            change = (kept ^ looked_at).sum()
            if change == 0:
                break
            share = change / kept.sum()
            rho *= 1.3 if share >= 0.1 else 1.2 if share >= 0.005 else 1.1
            looked_at = kept
    return torch.from_numpy(kept)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8])
def test_the_support_is_the_one_of_the_papers_updates(seed, sparsity):
    weight, gram = problem(8, 10, seed)
    _, mask = alps(weight, gram, sparsity, damping=0.02)
    assert torch.equal(mask, admm(weight, gram, sparsity, 0.02))
    assert int((~mask).sum()) == round(sparsity * 80)


@pytest.mark.parametrize("seed", range(3))
def test_ten_steps_on_a_small_support_are_the_refit(seed):
    weight, gram = problem(8, 10, seed)
    new, mask = alps(weight, gram, 0.5, damping=0.02)
    torch.testing.assert_close(new, refit(weight, mask, gram, damping=0.02), rtol=1e-4, atol=1e-5)


def test_it_comes_near_the_best_of_all_supports():
    ratios = []
    for seed in range(10):
        weight, gram = problem(1, 8, seed)
        masks = torch.zeros(70, 1, 8, dtype=torch.bool)
        for row, kept in enumerate(combinations(range(8), 4)):
            masks[row, 0, list(kept)] = True
        best = min(lost(refit(weight, mask, gram), weight, gram) for mask in masks)
        by_size = torch.zeros(1, 8, dtype=torch.bool).scatter(1, weight.abs().topk(4).indices, True)
        found = refit(weight, alps(weight, gram, 0.5)[1], gram)
        ratios.append((lost(found, weight, gram) / best, lost(weight * by_size, weight, gram) / best))
    ours, plain = np.median(np.array(ratios), axis=0)
    assert 1 - 1e-9 <= ours < 2
    assert plain > 4


def test_rho_must_be_above_zero():
    with pytest.raises(ValueError, match=r"prune\.alps: rho must be above 0; got 0"):
        alps(torch.ones(2, 2), torch.eye(2), 0.5, rho=0.0)
