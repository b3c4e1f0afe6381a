"""Iterative pruning with rewinding: train, prune a part of what is left, go back, train again."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tonsor.prune.carried import carried, fraction_gone, start
from tonsor.prune.find import find_masks
from tonsor.prune.fresh import refresh_
from tonsor.prune.protocol import Masks, Stats
from tonsor.spelling import unknown
from tonsor.tensors import apply_masks_

To = Literal["weights", "learning_rate", "init", "random", "none"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """Say what one round of iterative pruning begins with.

    Args:
        number: 0 is the dense training, 1 the first after pruning.
        sparsity: Fraction of the weights that is removed.
        masks: Masks by name, true where the weight stays.
        start: Step of the schedule to train on from: what `Rewind.keep` was given, 0 without it, and None
            where training simply goes on (`to="none"`).

    Example:
        >>> Round(number=0, sparsity=0.0, masks={}, start=0).number
        0
    """

    number: int
    sparsity: float
    masks: Masks
    start: int | None


class Rewind:
    r"""Prune a fraction of what is left, and take the model back to where it was early in its training.

    After n calls of `step` the sparsity is :math:`1 - (1 - f)^n`. What is taken back are all weights and
    buffers, as they were when `keep` was called in the first training, with zeros under the masks.

    | `to` | weights | learning rate | |
    |---|---|---|---|
    | "weights" | of the step that was kept | from that step on | Frankle et al. 2020 |
    | "init" | as at the beginning | from the first step on | Frankle and Carbin 2019 |
    | "learning_rate" | as they are | from the step that was kept on | Renda et al. 2020 |
    | "random" | drawn anew | from the first step on | the control that a ticket has to beat |
    | "none" | as they are | goes on where it ended: fine-tuning | Han et al. 2015 |

    Args:
        model: The model, changed in place.
        find: Called as `find(parameters, sparsity, stats=..., within=...)`; `find_masks` with its parts
            bound by `functools.partial`.
        weights: The weights to prune, by name; without it those of two or more dimensions.
        fraction: Fraction of what is left that goes in each round, in (0, 1); less is better and slower.
        to: What is taken back, as in the table.
        seed: Of the weights drawn anew; each round has its own draw.

    Raises:
        ValueError: If the fraction is out of its range, or `to` is not known. `step` raises it
            where a weight is to be drawn anew and its module has no `reset_parameters`.

    Example:
        >>> model = nn.Linear(5, 1, bias=False)
        >>> rewind = Rewind(model, fraction=0.4)
        >>> at_first = model.weight.detach().clone()
        >>> _ = nn.init.constant_(model.weight, 1.0)   # training; of equal weights the first go
        >>> model.weight.data.mul_(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]))
        tensor([[5., 1., 4., 2., 3.]])
        >>> rewind.step(); rewind.masks
        {'weight': tensor([[ True, False,  True, False,  True]])}
        >>> bool((model.weight == at_first * rewind.masks["weight"]).all())
        True

    References:
        Han et al., 2015, "Learning both Weights and Connections", https://arxiv.org/abs/1506.02626
        Frankle and Carbin, 2019, "The Lottery Ticket Hypothesis", https://arxiv.org/abs/1803.03635
        Frankle et al., 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        https://arxiv.org/abs/1912.05671
        Renda et al., 2020, "Comparing Rewinding and Fine-tuning in Neural Network Pruning",
        https://arxiv.org/abs/2003.02389
    """

    def __init__(
        self,
        model: nn.Module,
        find: Callable[..., Masks] = find_masks,
        /,
        *,
        weights: Mapping[str, Tensor] | None = None,
        fraction: float = 0.2,
        to: To = "weights",
        seed: int = 0,
    ) -> None:
        if not 0 < fraction < 1:
            raise ValueError(f"prune.Rewind: fraction must lie in (0, 1); got {fraction}")
        if to not in get_args(To):
            raise ValueError(f"prune.Rewind: {unknown('to', to, get_args(To))}")
        self.model = model
        self.number = 0
        self.is_trained = False  # whether the training of this round is over
        self._find = find
        self._fraction, self._to, self._seed = fraction, to, seed
        found = {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}
        self._weights: dict[str, Tensor] = {**found} if weights is None else dict(weights)
        self._masks = start("Rewind", self._weights, None)
        self._start = 0
        self._kept: dict[str, Tensor] = {}
        if to in ("weights", "init"):
            self._kept = _copied(model)

    @property
    def masks(self) -> Masks:
        """Masks by name, true where the weight stays; all true in the first training."""
        return dict(self._masks)

    @property
    def round(self) -> Round:
        """What the training that comes now begins with."""
        begins = {"none": None, "init": 0, "random": 0}.get(self._to, self._start)
        return Round(
            number=self.number,
            sparsity=fraction_gone(self._masks),
            masks=self.masks,
            start=0 if self.number == 0 else begins,
        )

    def keep(self, step: int, /) -> None:
        """Remember the model as it is now, at a step early in the first training; in later ones do nothing.

        Args:
            step: How many steps have been taken; the papers rewind to 0.1 to 7 % of the training.
        """
        if self.number == 0:
            self._start = step
            if self._to == "weights":
                self._kept = _copied(self.model)

    @torch.no_grad()
    def step(self, stats: Stats | None = None, /) -> None:
        """Prune what the training has left, and take the model back.

        Args:
            stats: Statistics by weight and name, if the importance asks for any.
        """
        sparsity = 1 - (1 - self._fraction) ** (self.number + 1)
        self._masks = self._find(self._weights, sparsity, stats=stats, within=self._masks)
        self.number, self.is_trained = self.number + 1, False
        if self._kept:
            self.model.load_state_dict(self._kept)
        if self._to == "random":
            refresh_(self.model, seed=self._seed + self.number)
        apply_masks_(self._weights, self._masks)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the model: masks, round, and the model that was kept."""
        return {
            "masks": dict(self._masks),
            "number": self.number,
            "trained": self.is_trained,
            "start": self._start,
            "kept": dict(self._kept),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; the model itself is loaded by its owner."""
        self._masks = carried("Rewind", self._weights, state["masks"])
        self.number, self.is_trained, self._start = state["number"], state["trained"], state["start"]
        self._kept = {name: value.clone() for name, value in state["kept"].items()}


def train_in_rounds(
    rewind: Rewind, train: Callable[[nn.Module, Round], object], /, *, count: int = 10
) -> Iterator[Round]:
    """Train, prune and rewind in turn, and yield after each training: the model is there to be judged.

    It goes on from where `rewind` is, so that a resumed run does not begin again: save the model and
    `rewind.state_dict()` in the body of the loop, and load both before it.

    Args:
        rewind: What prunes and takes back.
        train: Called with the model and the round; must hold the round's masks (`tonsor.attach` with
            `masks=round.masks`) and, in round 0, may call `rewind.keep(step)`.
        count: How many times is pruned; one training more is done.

    Yields:
        Each round, after its training.

    Example:
        >>> model = nn.Linear(10, 1)
        >>> def train(model, round):
        ...     pass     # an optimizer, a loop; step round.start is the first
        >>> for round in train_in_rounds(Rewind(model), train, count=2):
        ...     print(round.number, f"{round.sparsity:.1f}", int(model.weight.count_nonzero()))
        0 0.0 10
        1 0.2 8
        2 0.4 6

    References:
        Frankle and Carbin, 2019, "The Lottery Ticket Hypothesis", https://arxiv.org/abs/1803.03635
    """
    while True:
        if not rewind.is_trained:
            train(rewind.model, rewind.round)
            rewind.is_trained = True
            yield rewind.round
        if rewind.number >= count:
            return
        rewind.step()


def _copied(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
