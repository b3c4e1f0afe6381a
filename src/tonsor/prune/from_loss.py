"""Statistics that come from the loss: means over the batches of something made of the gradient."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def plain(weight: Tensor, gradient: Tensor, /) -> Tensor:
    """Return the gradient as it is.

    Example:
        >>> plain(torch.ones(1), torch.tensor([2.0]))
        tensor([2.])
    """
    return gradient


class Gradient:
    r"""Gather the mean gradient of the loss: :math:`\frac{1}{B} \sum_b \partial L_b / \partial w`.

    It is asked of autograd directly, so the `.grad` of the model is not touched. A weight that the loss
    does not use has the gradient 0. Half precision is summed to float32.

    Args:
        model: The model; nothing is hung on it.
        weights: Weights by name.
        term: Called with weight and gradient in the type of the sum: what of a batch is averaged.

    Example:
        >>> w = torch.ones(1, requires_grad=True)
        >>> gathered = Gradient(nn.Module(), {"w": w})
        >>> for x in (2.0, 4.0):
        ...     gathered.add((w * x).sum())
        >>> gathered.result(), w.grad
        ({'w': tensor([3.])}, None)
    """

    needs_loss = True

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        /,
        *,
        term: Callable[[Tensor, Tensor], Tensor] = plain,
    ) -> None:
        self._weights = dict(weights)
        self._term = term
        self._sums = {name: torch.zeros_like(w, dtype=wide(w)) for name, w in weights.items()}
        self._batches = 0

    def add(self, loss: Tensor | None, /) -> None:
        """Take in the gradient of one batch's loss."""
        found = gradients_of(loss, list(self._weights.values()))
        for name, gradient in zip(self._weights, found, strict=True):
            total = self._sums[name]
            total.add_(self._term(self._weights[name].detach().to(total.dtype), gradient.to(total.dtype)))
        self._batches += 1

    def result(self) -> dict[str, Tensor]:
        """Return the mean by weight, shaped like the weight."""
        return {name: total / self._batches for name, total in self._sums.items()}

    def close(self) -> None:
        """Do nothing: no hooks were hung."""


def squared_gradient(model: nn.Module, weights: Mapping[str, Tensor], /) -> Gradient:
    r"""Gather the mean over the batches of the squared gradient: :math:`\frac{1}{B} \sum_b g_b^2`.

    A batch counts as one: its gradient is squared after the loss has averaged over its samples. So the size
    of the batches matters, and the smaller they are the less their samples cancel.

    Args:
        model: The model; nothing is hung on it.
        weights: Weights by name.

    Example:
        >>> w = torch.ones(1, requires_grad=True)
        >>> gathered = squared_gradient(nn.Module(), {"w": w})
        >>> for x in (2.0, 4.0):
        ...     gathered.add((w * x).sum())
        >>> gathered.result()
        {'w': tensor([10.])}
    """
    return Gradient(model, weights, term=lambda _, gradient: gradient.square())


def weight_gradient(model: nn.Module, weights: Mapping[str, Tensor], /) -> Gradient:
    r"""Gather the mean over the batches of weight times gradient: :math:`\frac{1}{B} \sum_b w\,g_b`.

    Args:
        model: The model; nothing is hung on it.
        weights: Weights by name.

    Example:
        >>> w = torch.full((1,), 3.0, requires_grad=True)
        >>> gathered = weight_gradient(nn.Module(), {"w": w})
        >>> gathered.add((w * 2.0).sum())
        >>> gathered.result()
        {'w': tensor([6.])}
    """
    return Gradient(model, weights, term=torch.mul)


def fisher(model: nn.Module, weights: Mapping[str, Tensor], /) -> Gradient:
    r"""Gather the diagonal of the empirical Fisher: :math:`\frac{1}{N} \sum_n g_n^2` over single samples.

    `collect` runs the model on one sample at a time for it, so that the gradients are those of samples,
    exactly, whatever the size of the batches and whether the loss takes a sum or a mean. A loss that compares
    the samples of a batch with one another has no such gradients.

    Args:
        model: The model; nothing is hung on it.
        weights: Weights by name.

    Example:
        >>> w = torch.ones(1, requires_grad=True)
        >>> gathered = fisher(nn.Module(), {"w": w})
        >>> for x in (2.0, 4.0):           # the loss of one sample, then of another
        ...     gathered.add((w * x).sum())
        >>> gathered.result()
        {'w': tensor([10.])}

    References:
        Theis et al., 2018, "Faster gaze prediction with dense networks and Fisher pruning",
        https://arxiv.org/abs/1801.05787
    """
    return squared_gradient(model, weights)


def gradients_of(
    loss: Tensor | None, weights: list[Tensor], /, *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return the gradients of a loss, zeros where it does not use a weight; `.grad` is not touched.

    Args:
        loss: The loss of a batch; its graph is kept, because other collectors ask it too.
        weights: What to derive by.
        create_graph: Whether the gradients can be derived once more.

    Raises:
        ValueError: If the loss depends on nothing.

    Example:
        >>> w = torch.ones(1, requires_grad=True)
        >>> gradients_of((w * 3).sum(), [w])
        (tensor([3.]),)
    """
    if loss is None or not loss.requires_grad:
        raise ValueError(
            "prune.collect: the loss depends on none of the weights; do not detach it, and compute it"
            " from the output that is handed in"
        )
    found = torch.autograd.grad(
        loss, weights, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return tuple(gradient.to_dense() if gradient.is_sparse else gradient for gradient in found)


def wide(tensor: Tensor, /) -> torch.dtype:
    """Return the type to sum in: the tensor's own, float32 for half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)
