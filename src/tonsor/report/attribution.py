"""What in an input an answer rests on, and whether two models rest on the same."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tonsor.modes import evaluating

CHUNK = 2000  # inputs whose gradients are taken at once


def saliency(model: nn.Module, inputs: Tensor, classes: Tensor, /) -> Tensor:
    r"""Return how steeply the logit of a class depends on each input: :math:`|\partial f_c / \partial x_i|`.

    Args:
        model: A classifier that gives logits `(batch, classes)`; eval mode meanwhile, left as it was.
        inputs: Samples, `(batch, ...)`, floats.
        classes: The class asked about for each sample, `(batch,)`.

    Returns:
        Like the inputs.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
        >>> saliency(layer, torch.ones(2, 2), torch.tensor([0, 1]))
        tensor([[1., 2.],
                [3., 4.]])

    References:
        Simonyan et al., 2014, "Deep Inside Convolutional Networks", https://arxiv.org/abs/1312.6034
    """
    return _gradients(model, inputs, classes).abs()


def integrated_gradients(
    model: nn.Module, inputs: Tensor, classes: Tensor, /, *, baseline: float = 0.0, steps: int = 32
) -> Tensor:
    r"""Share the logit of a class out over the inputs, along the straight way from a baseline.

    .. math:: (x_i - b) \int_0^1 \frac{\partial f_c}{\partial x_i}\big(b + \alpha (x - b)\big)\,d\alpha

    They add up to the logit of the input less that of the baseline. The integral is taken by Gauss and
    Legendre's rule.

    Args:
        model: A classifier that gives logits `(batch, classes)`; eval mode meanwhile, left as it was.
        inputs: Samples, `(batch, ...)`, floats.
        classes: The class asked about for each sample, `(batch,)`.
        baseline: Value of an input that tells nothing: 0 for black, or for the mean of standardised data.
        steps: Points at which the gradient is taken, at least 1; more is more exact.

    Returns:
        Like the inputs.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
        >>> integrated_gradients(layer, torch.tensor([[5.0, 1.0]]), torch.tensor([0])).round(decimals=4)
        tensor([[ 5., -2.]])

    References:
        Sundararajan et al., 2017, "Axiomatic Attribution for Deep Networks",
        https://arxiv.org/abs/1703.01365
    """
    places, shares = np.polynomial.legendre.leggauss(steps)
    apart = inputs - baseline
    total = torch.zeros_like(inputs)
    for place, share in zip(((places + 1) / 2).tolist(), (shares / 2).tolist(), strict=True):
        total += share * _gradients(model, baseline + place * apart, classes)
    return apart * total


ATTRIBUTIONS: dict[str, Callable[..., Tensor]] = {
    "integrated_gradients": integrated_gradients,
    "saliency": saliency,
}


def agreement(first: Tensor, second: Tensor, /, *, top: float = 0.1) -> dict[str, Tensor]:
    """Compare two attributions of the same samples.

    Args:
        first: Attributions, `(batch, ...)`.
        second: Attributions of the same shape.
        top: Share of the inputs of a sample that counts as its most important, in (0, 1].

    Returns:
        One number a sample, `(batch,)`: `cosine`, in [-1, 1]; `spearman`, the correlation of the ranks, ties
        sharing theirs, in [-1, 1]; `overlap`, the share of the most important inputs, by size, that both have
        in common. Where a sample has nothing to compare (all zero, or all equal) it is NaN.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> found = agreement(a, a.flip(1), top=0.5)
        >>> {name: round(value.item(), 4) for name, value in found.items()}
        {'cosine': 0.6667, 'spearman': -1.0, 'overlap': 0.0}
    """
    if first.shape != second.shape:
        raise ValueError(
            f"report.agreement: both must be of one shape; got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    a, b = (x.detach().double().cpu().flatten(1) for x in (first, second))
    count = max(1, round(top * a.shape[1]))
    highest = [_highest(x.abs(), count) for x in (a, b)]
    overlap = (highest[0] * highest[1]).sum(1) / count
    some = (a != 0).any(1) & (b != 0).any(1)
    return {
        "cosine": _cosine(a, b),
        "spearman": _cosine(*(_centred(_ranks(x)) for x in (a, b))),
        "overlap": overlap.where(some, torch.nan),
    }


def explanations(
    dense: nn.Module, pruned: nn.Module, inputs: Tensor, /, *, top: float = 0.1
) -> dict[str, Any]:
    """Compare what two classifiers' answers rest on, by every method, on the same samples.

    Both are asked about the class that the dense model answers.

    Args:
        dense: The model to compare with; it gives logits `(batch, classes)`.
        pruned: The model to compare.
        inputs: Samples, `(batch, ...)`, floats, on the models' device.
        top: Share of the inputs of a sample that counts as its most important.

    Returns:
        By method (integrated gradients, saliency) and measure (cosine, spearman, overlap) the `median`, `low`
        and `high` over the samples, the 10th and 90th percentile; None where no sample could be compared.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> found = explanations(model, model, torch.ones(4, 3))
        >>> round(found["saliency"]["cosine"]["median"], 4)
        1.0
    """
    with evaluating(dense):
        classes = dense(inputs).argmax(-1)
    found: dict[str, Any] = {}
    for name, rule in ATTRIBUTIONS.items():
        compared = agreement(*(rule(model, inputs, classes) for model in (dense, pruned)), top=top)
        found[name] = {measure: _spread(values) for measure, values in compared.items()}
    return found


def _gradients(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """Return the gradient of each sample's logit of its class; a sum keeps the samples apart."""
    found = []
    with evaluating(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for part, asked in zip(torch.split(inputs, CHUNK), torch.split(classes, CHUNK), strict=True):
            x = part.detach().clone().requires_grad_()
            logits = model(x).gather(1, asked.view(-1, 1))
            found.append(torch.autograd.grad(logits.sum(), x)[0])
    return torch.cat(found)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle between the rows, NaN where a row is zero."""
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    cosine: Tensor = (a * b).sum(1) / lengths
    return cosine


def _highest(rows: Tensor, count: int) -> Tensor:
    """Return 1 at the highest elements of each row, of equal ones at the first, and 0 elsewhere."""
    order = rows.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(rows).scatter(1, order[:, :count], 1.0)


def _centred(rows: Tensor) -> Tensor:
    """Return rows whose mean is 0."""
    return rows - rows.mean(1, keepdim=True)


def _ranks(rows: Tensor) -> Tensor:
    """Return the rank of each element in its row; equal ones share the mean of their ranks."""
    ordered = rows.sort(1).values
    first = torch.searchsorted(ordered, rows.contiguous())
    last = torch.searchsorted(ordered, rows.contiguous(), right=True)
    return (first + last).double() / 2


def _spread(values: Tensor) -> Mapping[str, float] | None:
    """Return median and 10th and 90th percentile of the numbers there are."""
    known = values[~values.isnan()].numpy()
    if not len(known):
        return None
    low, median, high = np.percentile(known, [10, 50, 90])
    return {"median": float(median), "low": float(low), "high": float(high)}
