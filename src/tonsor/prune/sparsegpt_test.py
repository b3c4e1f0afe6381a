import numpy as np
import pytest
import torch

from tonsor.prune import alps, by_importance, refit, sparsegpt


def problem(rows, features, seed=0):
    """Return a weight and the Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, features, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(features, features, generator=generator, dtype=torch.float64)
    return torch.randn(rows, features, generator=generator, dtype=torch.float64), x.T @ x / 200


def surgeon(weight, gram, sparsity, block, damping, m=0):
    """Prune by the paper's definition: each step inverts the matrix of the columns not yet frozen."""
    w, mask = weight.numpy().copy(), np.ones(weight.shape, bool)
    h = gram.numpy() + damping * np.diag(gram.numpy()).mean() * np.eye(len(gram))
    features, done = w.shape[1], 0
    pivots = np.array([np.linalg.inv(h[j:, j:])[0, 0] for j in range(features)])
    for j in range(features):
        size = m or block
        if j % size == 0:
            columns = slice(j, min(j + size, features))
            scores = w[:, columns] ** 2 / pivots[columns]
            if m:
                for row in range(len(w)):
                    lowest = np.argsort(scores[row], kind="stable")[: int(sparsity * m)]
                    mask[row, j + lowest] = False
            else:
                count = round(sparsity * len(w) * columns.stop) - done
                done += count
                lowest = np.argsort(scores.ravel(), kind="stable")[:count]
                mask[:, columns].flat[lowest] = False
        inverse = np.linalg.inv(h[j:, j:])
        gone = ~mask[:, j]
        w[gone, j:] -= np.outer(w[gone, j] / inverse[0, 0], inverse[0])
    return torch.from_numpy(w * mask), torch.from_numpy(mask)


def lost(new, weight, gram):
    change = (new - weight).double()
    return float(((change @ gram) * change).sum())


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("block", [1, 5, 12, 128])
def test_it_is_the_surgeon_of_the_paper(sparsity, block):
    weight, gram = problem(6, 12)
    found, mask = sparsegpt(weight, gram, sparsity, block=block, damping=0.02)
    wanted, stays = surgeon(weight, gram, sparsity, block, 0.02)
    assert torch.equal(mask, stays)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("m", "sparsity"), [(4, 0.5), (2, 0.5), (6, 0.34), (12, 0.75)])
@pytest.mark.parametrize("block", [5, 128])
def test_runs_are_chosen_when_they_are_reached(m, sparsity, block):
    weight, gram = problem(6, 12)
    found, mask = sparsegpt(weight, gram, sparsity, m=m, block=block, damping=0.02)
    wanted, stays = surgeon(weight, gram, sparsity, block, 0.02, m=m)
    assert torch.equal(mask, stays)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


def test_the_count_is_exact_over_all_blocks():
    weight, gram = problem(7, 30)
    for sparsity in (0.1, 0.37, 0.5, 0.99):
        _, mask = sparsegpt(weight, gram, sparsity, block=4)
        assert int((~mask).sum()) == round(sparsity * 210)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("m", [0, 4])
def test_the_solvers_lose_less_than_magnitude_and_a_refit_less_again(seed, m):
    weight, gram = problem(16, 24, seed)
    if m:
        keep = weight.abs().view(-1, 4).argsort().argsort().view(16, 24) >= 2
        losses = [lost(weight * keep, weight, gram)]
    else:
        losses = [lost(by_importance(weight, gram, 0.5)[0], weight, gram)]
    for rule in (sparsegpt, alps):
        new, mask = rule(weight, gram, 0.5, m=m)
        assert int(mask.sum()) == 192
        losses.append(lost(new, weight, gram))
        again = lost(refit(weight, mask, gram, damping=1e-6), weight, gram)
        assert again <= losses[-1] * (1 + 1e-6)
    assert losses[0] > losses[1]
    assert losses[0] > losses[2]


@pytest.mark.parametrize("rule", [sparsegpt, alps])
def test_runs_of_a_convolution_go_along_its_channels(rule):
    weight, gram = problem(6, 36)
    weight = weight.view(6, 4, 3, 3)
    new, mask = rule(weight, gram, 0.5, m=4)
    assert (mask.sum(1) == 2).all()
    assert (new[~mask] == 0).all()


@pytest.mark.parametrize("rule", [sparsegpt, alps])
def test_groups_are_pruned_each_by_itself(rule):
    (first, one), (second, two) = problem(4, 8), problem(4, 8, seed=1)
    new, mask = rule(torch.cat([first, second]), torch.stack([one, two]), 0.5)
    for part, (weight, gram) in enumerate(((first, one), (second, two))):
        wanted, stays = rule(weight, gram, 0.5)
        assert torch.equal(mask[4 * part : 4 * part + 4], stays)
        torch.testing.assert_close(new[4 * part : 4 * part + 4], wanted)


@pytest.mark.parametrize("rule", [sparsegpt, alps])
@pytest.mark.parametrize(
    ("sparsity", "m", "says"), [(1.0, 0, r"must lie in \[0, 1\)"), (0.5, 5, "runs of 5 do not fit 12 inputs")]
)
def test_a_mistake_is_told(rule, sparsity, m, says):
    with pytest.raises(ValueError, match=rf"prune\.{rule.__name__}: .*{says}"):
        rule(*problem(2, 12), sparsity, m=m)


@pytest.mark.parametrize("rule", [sparsegpt, alps])
def test_a_dead_input_takes_its_weights_along(rule):
    weight, gram = problem(4, 8)
    gram[3], gram[:, 3] = 0, 0
    new, mask = rule(weight, gram, 0.5)
    assert new.isfinite().all()
    assert int(mask[:, 3].sum()) <= 1
