"""How a search for the best small model goes about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tonsor.pack import Sharing, kmeans
from tonsor.prune import LayerRule, alps
from tonsor.shrink import Scores

Tune = Callable[[nn.Module, Mapping[str, Tensor]], None]


def squared_distance(outputs: Any, taught: Any, /) -> Tensor:
    r"""Return how far outputs are from the dense model's: :math:`\sum (z - t)^2 / \sum (t - \bar t)^2`.

    Args:
        outputs: A tensor, or tuples, lists and mappings of tensors; what is no float does not count.
        taught: What the dense model gave, alike.

    Returns:
        0-dim; 0 where they are equal.

    Example:
        >>> squared_distance(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
        tensor(0.5000)
    """
    pairs = zip(_floats(outputs), _floats(taught), strict=True)
    parts = [(z - t).square().sum() / (t - t.mean()).square().sum().clamp_min(1e-12) for z, t in pairs]
    return torch.stack(parts).sum()


def divergence(outputs: Tensor, taught: Tensor, /) -> Tensor:
    r"""Return how far a classifier's odds are from the dense one's: the mean :math:`\mathrm{KL}(t \,\|\, z)`.

    Args:
        outputs: Logits `(batch, ..., classes)`.
        taught: Those of the dense model.

    Returns:
        0-dim, in nats.

    Example:
        >>> divergence(torch.tensor([[5.0, 5.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(0.)
    """
    student, teacher = (logits.flatten(0, -2).log_softmax(-1) for logits in (outputs, taught))
    return nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class How:
    """Say how candidates are made and measured.

    Args:
        scores: As `shrink_to` takes them: which channels go first.
        rule: Finds the zeros of one layer, and refits what stays.
        choices: The numbers of bits to choose from.
        sharing: How values are shared.
        apart: From the outputs of a candidate and of the dense model to a distance.
        steps: In which the shared values are trained to bring that down, without labels; 0 leaves them.
        lr: Of those steps.
        batch: Samples of a call that is timed.
        shares: Of the multiplications, that are tried first; others follow between them.
        most: Candidates at most.
        about: Kept in every packed file.
        tune: Trains the pick in place, with the masks it is given held; nothing is trained if not given.
        tuned: What the rows of such candidates are called; another training needs another name.
        tell: Called with a dict for every event.
        stop: Asked after every candidate whether to stop.

    Example:
        >>> How(batch=64).steps
        128
    """

    scores: Scores | None = None
    rule: LayerRule = alps
    choices: Sequence[int] = (2, 3, 4, 5, 6, 8)
    sharing: Sharing = kmeans
    apart: Callable[[Any, Any], Tensor] = squared_distance
    steps: int = 128
    lr: float = 3e-3
    batch: int = 1
    shares: Sequence[float] = (1.0, 0.5, 0.25)
    most: int = 32
    about: Mapping[str, Any] = field(default_factory=dict)
    tune: Tune | None = None
    tuned: str = "tuned"
    tell: Callable[[dict[str, Any]], None] = lambda event: None
    stop: Callable[[], bool] = lambda: False


def _floats(outputs: Any) -> list[Tensor]:
    """Return every tensor of floats in what a model returned."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
