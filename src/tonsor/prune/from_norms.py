"""The statistic that comes from the normalisation behind a layer."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # what all batch and instance normalisations are

from tonsor.prune.follow import Following, follow_output
from tonsor.prune.from_loss import wide
from tonsor.prune.outputs import KINDS, along_outputs, channel_dim, channels, not_seen, owners

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class NormScale:
    r"""Gather the scale of the normalisation that a layer's output runs into: :math:`|\gamma|`.

    Which one that is, the pass over the batches shows: the output is followed, through elementwise functions
    if need be, to the first normalising module it is handed to, wherever that stands in the model. Where a
    module is called more than once, the scales are averaged.

    Args:
        model: The model; hooks are hung on the modules that own the weights and on its normalisations.
        weights: Weights by name.

    Raises:
        ValueError: If a weight is not that of a linear layer or a convolution; in the end, if no
            normalisation with one scale a channel follows.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
        >>> model[1].weight.data = torch.tensor([0.5, -2.0])
        >>> gathered = NormScale(model, {"0.weight": model[0].weight})
        >>> out = model(torch.zeros(1, 1, 1, 1))
        >>> gathered.add(None)
        >>> gathered.close()
        >>> gathered.result()["0.weight"].flatten()
        tensor([0.5000, 2.0000])

    References:
        Liu et al., 2017, "Learning Efficient Convolutional Networks through Network Slimming",
        https://arxiv.org/abs/1708.06519
    """

    needs_loss = False

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], /) -> None:
        self._owners = owners(model, weights, "norm_scale", KINDS)
        self._scales: dict[str, dict[int, Tensor]] = {name: {} for name in weights}
        self._following = Following(_forget)
        self._open = ExitStack()
        self._open.enter_context(self._following)
        for name, owner in self._owners.items():
            hook = owner.register_forward_hook(partial(follow_output, self._following, name))
            self._open.callback(hook.remove)
        for module in model.modules():
            if isinstance(module, NORMS):
                hook = module.register_forward_pre_hook(self._meet, with_kwargs=True)
                self._open.callback(hook.remove)

    def add(self, loss: Tensor | None, /) -> None:
        """Let go of the outputs that met no normalisation."""
        self._following.finish()

    def result(self) -> dict[str, Tensor]:
        """Return the scales by weight, in a shape that broadcasts to the weight."""
        unmet = {name: owner for name, owner in self._owners.items() if not self._scales[name]}
        not_seen("norm_scale", unmet, "no normalisation with one scale a channel follows it")
        return {name: along_outputs(owner, self._mean(name)) for name, owner in self._owners.items()}

    def close(self) -> None:
        """Take the hooks off the model and stop watching."""
        self._open.close()

    def _meet(self, norm: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note the scale of a normalisation for the layers whose output it is handed."""
        given = inputs[0] if inputs else named["input"]
        for name in self._following.take(given):
            if _fits(norm, self._owners[name], given):
                self._scales[name][id(norm)] = norm.weight.detach().flatten().abs()

    def _mean(self, name: str) -> Tensor:
        """Return the mean of the scales a layer has met."""
        scales = list(self._scales[name].values())
        return torch.stack([scale.to(wide(scale)) for scale in scales]).mean(0)


def _fits(norm: Any, owner: Any, given: Tensor) -> bool:
    """Say whether a normalisation has one scale for each output channel of a module."""
    dim = given.ndim - 1 if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) else 1
    is_scaled = norm.weight is not None and norm.weight.numel() == channels(owner)
    return is_scaled and channel_dim(owner, given) == dim


def _forget(name: str, output: Tensor) -> None:
    """Take no notice of where an output has got to."""
