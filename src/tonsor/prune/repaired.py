"""What was done to one layer, for people: how much was removed, and what that does to its outputs."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tonsor.prune.layers import Layer
from tonsor.prune.moments import Moments
from tonsor.prune.refit import moved
from tonsor.prune.walk import Call, call_of
from tonsor.spelling import unknown
from tonsor.tensors import apply_masks_

TARGETS = ("dense", "current")


@dataclass(frozen=True)
class Repaired:
    """Tell how far a layer's outputs are from the dense ones, before and after its repair.

    Errors are the mean squared difference over the mean square of what the dense weight gives: 0 is
    exact, 1 as wrong as zeros. Both are measured on the calibration batches.

    Args:
        name: The weight.
        sparsity: Fraction of the weight that is removed.
        before: Error with the mask alone; None where it was not measured.
        after: Error with the weights there are now.
        seconds: Time of the solution, without the runs of the model.
        note: Why there was no repair, or empty.

    Example:
        >>> print(Repaired("fc.weight", 0.5, 0.25, 0.0625, 0.1))
        fc.weight: 50.0 % removed, error 0.25 -> 0.0625, 0.1 s
        >>> print(Repaired("embedding.weight", 0.5, note="masked only"))
        embedding.weight: 50.0 % removed, masked only
    """

    name: str
    sparsity: float
    before: float | None = None
    after: float | None = None
    seconds: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        """Return one line."""
        removed = f"{self.name}: {self.sparsity:.1%} removed".replace("%", " %")
        if self.before is None or self.after is None:
            return f"{removed}, {self.note}"
        return f"{removed}, error {self.before:.3g} -> {self.after:.3g}, {self.seconds:.1f} s"


def error(weight: Tensor, shift: Tensor | float, dense_weight: Tensor, moments: Moments, /) -> float:
    r"""Return :math:`E\|W x + s - W_0 x_0\|^2 / E\|W_0 x_0\|^2`.

    Args:
        weight: W, `(out, in/groups, ...)`.
        shift: s, the bias less the dense bias, `(out,)`.
        dense_weight: The weight of the dense layer.
        moments: Of the inputs x now and :math:`x_0` in the dense model.

    Example:
        >>> from torch import nn
        >>> from tonsor.prune.layers import layer_of
        >>> moments = Moments(layer_of(nn.Linear(1, 1), "weight"))
        >>> moments.add((torch.tensor([[1.0], [3.0]]),))
        >>> error(torch.zeros(1, 1), 0.0, torch.ones(1, 1), moments)
        1.0
        >>> error(torch.zeros(1, 1), torch.tensor([2.0]), torch.ones(1, 1), moments)    # 1 of 5 is left
        0.2
    """
    groups, features = moments.mean.shape
    new, old = (w.double().reshape(groups, -1, features) for w in (weight, dense_weight))
    power = ((old @ moments.dense_gram) * old).sum()
    spread = ((new @ moments.gram) * new).sum() + power - 2 * ((old @ moments.cross) * new).sum()
    if isinstance(shift, Tensor):
        shift = shift.double().reshape(groups, -1)
        apart = new @ moments.mean.unsqueeze(2) - old @ moments.dense_mean.unsqueeze(2)
        spread = spread + (shift.square() + 2 * shift * apart.squeeze(2)).sum()
    return float(spread.clamp(min=0) / power.clamp(min=1e-300))


def calibration(rule: str, batches: Iterable[tuple[Any, Any]], target: str, /) -> list[Call]:
    """Return one call for each batch, or refuse a target that is not known, or that there is no batch.

    Args:
        rule: Name of the function that asks, for the error.
        batches: Pairs of inputs and targets.
        target: What the layers are refitted to.

    Raises:
        ValueError: If the target is not known or there is no batch.

    Example:
        >>> calibration("heal", [(1, None)], "dense")
        [((1,), {})]
    """
    if target not in TARGETS:
        raise ValueError(f"prune.{rule}: {unknown('target', target, TARGETS)}")
    calls = [call_of(inputs) for inputs, _ in batches]
    if not calls:
        raise ValueError(f"prune.{rule}: there was no batch; give at least one (an iterator runs once)")
    return calls


def centred(layer: Layer, moments: Moments, /) -> tuple[Tensor | None, Tensor | None]:
    """Return the mean input where a bias can make up for it, and the product with the dense inputs.

    Args:
        layer: The layer.
        moments: Of its inputs.

    Example:
        >>> from torch import nn
        >>> from tonsor.prune.layers import layer_of
        >>> layer = layer_of(nn.Linear(1, 1), "weight")
        >>> moments = Moments(layer)
        >>> moments.add((torch.tensor([[1.0], [3.0]]),))
        >>> centred(layer, moments)    # dense and current inputs are the same
        (tensor([[2.]], dtype=torch.float64), None)
    """
    cross = moments.cross if moments.is_paired else None
    if layer.bias is None:
        return None, cross
    if cross is not None:
        cross = cross - moments.dense_mean.unsqueeze(2) * moments.mean.unsqueeze(1)
    return moments.mean, cross


@torch.no_grad()
def write_(
    layer: Layer, new: Tensor, dense: Tensor, moments: Moments, masks: Mapping[str, Tensor], /
) -> Tensor | float:
    """Write a new weight and the bias that goes with it into a layer; return the change of the bias.

    Args:
        layer: The layer.
        new: The new weight, `(out, in/groups, ...)`.
        dense: The weight there was.
        moments: Of the layer's inputs.
        masks: Masks by name, that of a bias included.

    Example:
        >>> from torch import nn
        >>> from tonsor.prune.layers import layer_of
        >>> module = nn.Linear(1, 1)
        >>> layer, dense = layer_of(module, "weight"), module.weight.detach().clone()
        >>> moments = Moments(layer)
        >>> moments.add((torch.tensor([[2.0]]),))
        >>> shift = write_(layer, torch.zeros(1, 1), dense, moments, {})
        >>> torch.allclose(shift, 2 * dense.flatten())
        True
    """
    layer.weight.copy_(layer.upright(new))
    shift: Tensor | float = 0.0
    if layer.bias is not None:
        before = layer.bias.detach().clone()
        layer.bias.add_((moved(dense, moments.dense_mean) - moved(new, moments.mean)).to(before.dtype))
        apply_masks_(layer.parameters, {name: masks[name] for name in layer.parameters if name in masks})
        shift = layer.bias.detach() - before
    return shift


def record(
    layer: Layer,
    weights: tuple[Tensor, Tensor, Tensor],
    shift: Tensor | float,
    moments: Moments,
    started: float,
    /,
) -> Repaired:
    """Return the record of a layer; outputs of which nothing stays are left out of its errors.

    Args:
        layer: The layer.
        weights: The dense weight, the mask and the new weight.
        shift: Change of the bias.
        moments: Of the layer's inputs.
        started: When its solution was begun, by `time.perf_counter`.

    Example:
        >>> from torch import nn
        >>> from tonsor.prune.layers import layer_of
        >>> layer = layer_of(nn.Linear(1, 1), "weight")
        >>> moments = Moments(layer)
        >>> moments.add((torch.tensor([[2.0]]),))
        >>> one = torch.ones(1, 1)
        >>> record(layer, (one, one > 0, one), 0.0, moments, 0.0).after
        0.0
    """
    dense, mask, new = weights
    seconds = time.perf_counter() - started
    alive = mask.flatten(1).any(1)
    dense = dense * alive.view(-1, *[1] * (dense.ndim - 1))
    before = error(dense.where(mask, 0), 0.0, dense, moments)
    after = error(new, shift * alive, dense, moments)
    return Repaired(layer.name, 1 - float(mask.double().mean()), before, after, seconds)
