"""Statistics that come from what a module gives: its output after normalisation and nonlinearity."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.prune.follow import Following, follow_output
from tonsor.prune.from_loss import wide
from tonsor.prune.outputs import KINDS, along_outputs, by_channel, not_seen, owners

MAPS = (nn.Conv2d, nn.ConvTranspose2d)  # modules whose output channels are matrices


class Activation:
    r"""Gather moments of each output channel over all samples and positions.

    Judged is what the next layer is fed: the output is followed through normalisations and nonlinearities
    (`follow.Following` says which), also functional, in place and written out, and judged after the last of
    them. The outputs of one batch are held until its end; of all batches only the sums. A module that is
    called more than once adds up.

    Args:
        model: The model; a forward hook is hung on each module that owns one of the weights, and torch
            functions are watched until `close`.
        weights: Weights by name.
        statistic: Its name, for errors.
        kinds: Modules that have it.
        measure: Called with module and activation; gives rows to add up and by how many they are divided.
        finish: Called with the rows' means; gives one value a channel.

    Raises:
        ValueError: If a weight is not that of such a module.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
        >>> model[0].weight.data = torch.tensor([[1.0], [-1.0]])
        >>> gathered = Activation(model, {"0.weight": model[0].weight}, statistic="activation_mean")
        >>> out = model(torch.tensor([[2.0], [4.0]]))
        >>> gathered.add(None)
        >>> gathered.close()
        >>> gathered.result()
        {'0.weight': tensor([[3.],
                [0.]])}
    """

    needs_loss = False

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        /,
        *,
        statistic: str,
        kinds: tuple[Any, ...] = KINDS,
        measure: Callable[[Any, Tensor], tuple[Tensor, int]] | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._statistic = statistic
        self._measure = measure or _size
        self._finish = finish or _first
        self._owners = owners(model, weights, statistic, kinds)
        self._sums: dict[str, Tensor] = {}
        self._counts = dict.fromkeys(weights, 0)
        self._following = Following(self._judge)
        self._open = ExitStack()
        self._open.enter_context(self._following)
        for name, owner in self._owners.items():
            hook = owner.register_forward_hook(partial(follow_output, self._following, name))
            self._open.callback(hook.remove)

    def add(self, loss: Tensor | None, /) -> None:
        """Judge the outputs of the batch where they have arrived."""
        self._following.finish()

    def result(self) -> dict[str, Tensor]:
        """Return one value an output channel by weight, in a shape that broadcasts to the weight."""
        unseen = {name: owner for name, owner in self._owners.items() if name not in self._sums}
        not_seen(self._statistic, unseen, "it was not called by the batches")
        return {
            name: along_outputs(owner, self._finish(self._sums[name] / self._counts[name])).to(
                wide(owner.weight)
            )
            for name, owner in self._owners.items()
        }

    def close(self) -> None:
        """Take the hooks off the model and stop watching."""
        self._open.close()

    def _judge(self, name: str, activation: Tensor) -> None:
        """Add what one activation measures."""
        rows, count = self._measure(self._owners[name], activation)
        self._sums[name] = self._sums[name] + rows if name in self._sums else rows
        self._counts[name] += count


def activation_mean(model: nn.Module, weights: Mapping[str, Tensor], /) -> Activation:
    r"""Gather the mean size of each output channel's activation: :math:`\overline{|a|}`.

    Args:
        model: The model; a hook is hung on each module that owns one of the weights.
        weights: Weights by name.

    Example:
        >>> from tonsor.prune import collect
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        >>> _ = model[0].weight.data.fill_(1.0)
        >>> maps = torch.tensor([[[[1.0, -3.0]]]])
        >>> found = collect(model, [(maps, None)], names=["activation_mean"])
        >>> found["0.weight"]["activation_mean"].item()
        0.5
    """
    return Activation(model, weights, statistic="activation_mean")


def activation_zeros(model: nn.Module, weights: Mapping[str, Tensor], /) -> Activation:
    r"""Gather the share of zeros in each output channel's activation: :math:`\overline{[a = 0]}`.

    Args:
        model: The model; a hook is hung on each module that owns one of the weights.
        weights: Weights by name.

    Example:
        >>> from tonsor.prune import collect
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        >>> _ = model[0].weight.data.fill_(1.0)
        >>> maps = torch.tensor([[[[1.0, -3.0]]]])
        >>> found = collect(model, [(maps, None)], names=["activation_zeros"])
        >>> found["0.weight"]["activation_zeros"].item()
        0.5
    """
    return Activation(model, weights, statistic="activation_zeros", measure=_zeros)


def activation_variance(model: nn.Module, weights: Mapping[str, Tensor], /) -> Activation:
    r"""Gather the variance of each output channel's activation: :math:`\overline{a^2} - \bar{a}^2`.

    Both moments are summed in float64.

    Args:
        model: The model; a hook is hung on each module that owns one of the weights.
        weights: Weights by name.

    Example:
        >>> from tonsor.prune import collect
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        >>> _ = model[0].weight.data.fill_(1.0)
        >>> maps = torch.tensor([[[[1.0, -3.0]]]])
        >>> found = collect(model, [(maps, None)], names=["activation_variance"])
        >>> found["0.weight"]["activation_variance"].item()
        0.25
    """
    return Activation(model, weights, statistic="activation_variance", measure=_moments, finish=_variance)


def activation_rank(model: nn.Module, weights: Mapping[str, Tensor], /) -> Activation:
    r"""Gather the mean rank of each output channel's map: :math:`\overline{\mathrm{rank}(A)}`.

    The mean goes over samples. Only two-dimensional convolutions have maps that are matrices.

    Args:
        model: The model; a hook is hung on each module that owns one of the weights.
        weights: Weights by name.

    Example:
        >>> from tonsor.prune import collect
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        >>> _ = model[0].weight.data.fill_(1.0)
        >>> maps = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
        >>> found = collect(model, [(maps, None)], names=["activation_rank"])
        >>> found["0.weight"]["activation_rank"].item()
        2.0

    References:
        Lin et al., 2020, "HRank: Filter Pruning using High-Rank Feature Map",
        https://arxiv.org/abs/2002.10179
    """
    return Activation(model, weights, statistic="activation_rank", kinds=MAPS, measure=_ranks)


def _size(owner: Any, activation: Tensor) -> tuple[Tensor, int]:
    """Return the sum of sizes a channel, and over how many positions."""
    values = by_channel(owner, activation)
    return values.abs().sum(1, dtype=torch.float64).unsqueeze(0), values.shape[1]


def _first(rows: Tensor) -> Tensor:
    """Return the only row."""
    return rows[0]


def _zeros(owner: Any, activation: Tensor) -> tuple[Tensor, int]:
    """Return how many zeros each channel has, and of how many positions."""
    values = by_channel(owner, activation)
    return (values == 0).sum(1, dtype=torch.float64).unsqueeze(0), values.shape[1]


def _moments(owner: Any, activation: Tensor) -> tuple[Tensor, int]:
    """Return the sums and the sums of squares of each channel, and over how many positions."""
    values = by_channel(owner, activation).double()
    return torch.stack([values.sum(1), values.square().sum(1)]), values.shape[1]


def _variance(moments: Tensor) -> Tensor:
    """Return the variance from the two first moments."""
    return (moments[1] - moments[0].square()).clamp(min=0)


def _ranks(owner: Any, activation: Tensor) -> tuple[Tensor, int]:
    """Return the sum over the samples of each channel's rank, and how many samples."""
    maps = activation.view(-1, *activation.shape[-3:])
    return torch.linalg.matrix_rank(maps.to(wide(maps))).sum(0, dtype=torch.float64).unsqueeze(0), len(maps)
