"""How much a model loses when one weight alone is pruned: measured, kept in a file, and shared out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import call
from tonsor.prune.allocation import least_loss, most_removed, risen, same_rise
from tonsor.prune.find import find_masks
from tonsor.prune.protocol import Masks, Stats
from tonsor.prune.scan import SPARSITIES, Evaluate, Measured, scan_sensitivity


@dataclass(frozen=True)
class Sensitivity:
    """Hold the figures of a model with one weight pruned at a time, and share sparsities out by them.

    Args:
        rows: What `scan_sensitivity` yielded, the dense model's row first.

    Raises:
        ValueError: If the first row is not the dense model's.

    Example:
        >>> table = Sensitivity((Measured("", 0.0, 0, 0, {"loss": 1.0}),
        ...     Measured("a", 0.9, 9, 10, {"loss": 1.9}), Measured("b", 0.9, 9, 10, {"loss": 1.09})))
        >>> table.curves
        {'a': [(0.0, 0.0), (0.9, 0.9)], 'b': [(0.0, 0.0), (0.9, 0.09)]}
        >>> table.allocate(sparsity=0.5), table.predict({"a": 0.1, "b": 0.9})
        ({'a': 0.1, 'b': 0.9}, 1.19)
    """

    rows: tuple[Measured, ...]

    def __post_init__(self) -> None:
        if not self.rows or self.rows[0].weight:
            raise ValueError("prune.Sensitivity: the first row must be the dense model's, whose weight is ''")

    @property
    def dense(self) -> float:
        """Loss of the dense model."""
        return self.rows[0].figures["loss"]

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each weight."""
        return {row.weight: row.size for row in self.rows[1:]}

    @property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """For each weight pairs of sparsity and rise of the loss, ascending; only finite ones."""
        found: dict[str, dict[float, float]] = {}
        for row in self.rows[1:]:
            curve = found.setdefault(row.weight, {0.0: 0.0})
            rise = round(row.figures["loss"] - self.dense, 12)
            if row.removed and abs(rise) < float("inf"):
                curve[row.removed / row.size] = rise
        return {name: sorted(curve.items()) for name, curve in found.items()}

    def predict(self, sparsities: Mapping[str, float]) -> float:
        """Return the loss to be expected: the dense one and the rise of each weight, interpolated."""
        return round(self.dense + sum(risen(self.curves[name], s) for name, s in sparsities.items()), 12)

    def allocate(self, *, sparsity: float | None = None, max_loss: float | None = None) -> dict[str, float]:
        """Return a sparsity for each weight: the least loss for a sparsity, or the most removed for a loss.

        Args:
            sparsity: Fraction of all elements to be removed, in [0, 1); or
            max_loss: what the predicted loss may come to; at least the dense model's.

        Returns:
            Sparsities by name, none above the highest that was measured.

        Raises:
            ValueError: If not just one of the two is given, or it is out of reach.
        """
        if (sparsity is None) == (max_loss is None):
            raise ValueError("prune.Sensitivity.allocate: give either sparsity or max_loss")
        if sparsity is not None:
            return least_loss(self.curves, self.sizes, sparsity)
        assert max_loss is not None, "just one is None"
        return most_removed(self.curves, self.sizes, max_loss - self.dense)

    def same(self, sparsity: float) -> dict[str, float]:
        """Return sparsities by name at which every weight alone raises the loss alike."""
        return same_rise(self.curves, self.sizes, sparsity)


def sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    /,
    *,
    weights: Iterable[str] | None = None,
    sparsities: Sequence[float] = SPARSITIES,
    find: Callable[..., Masks] = find_masks,
    stats: Stats | None = None,
    path: Path | None = None,
) -> Sensitivity:
    """Measure a model with one weight pruned at a time: `scan_sensitivity`, all rows of it.

    Args:
        model: The model, left as it was.
        evaluate: Called with the model; gives its loss on data that were not trained on, or a mapping of
            figures with "loss" among them. `mean_loss` makes one from batches.
        weights: Names of the parameters; without it every parameter of two or more dimensions.
        sparsities: Fractions removed, each in (0, 1).
        find: Finds the masks of one weight: `find_masks`, its parts bound by `functools.partial`.
        stats: Statistics for the importance, as `collect` gives them.
        path: A file of JSON lines from which a scan that was stopped goes on; without it nothing is kept.

    Returns:
        The rows, with curves and allocations.

    Raises:
        ValueError: If a name or sparsity is wrong, or the file belongs to another model or other data.

    Example:
        >>> from functools import partial
        >>> model = nn.Linear(2, 1, bias=False)
        >>> model.weight.data = torch.tensor([[3.0, 1.0]])
        >>> batches = [(torch.eye(2), torch.tensor([[3.0], [1.0]]))]
        >>> judge = partial(mean_loss, batches=batches, loss=nn.functional.mse_loss)
        >>> table = sensitivity(model, judge, sparsities=[0.5])
        >>> table.curves
        {'weight': [(0.0, 0.0), (0.5, 0.5)]}
    """
    rows = scan_sensitivity(
        model, evaluate, weights=weights, sparsities=sparsities, find=find, stats=stats, path=path
    )
    return Sensitivity(tuple(rows))


def mean_loss(
    model: nn.Module, /, *, batches: Iterable[tuple[Any, Any]], loss: Callable[[Any, Any], Tensor]
) -> float:
    """Return a model's mean loss over batches, each weighted by its size.

    Args:
        model: The model, called as it is; `sensitivity` puts it into eval mode.
        batches: Pairs of inputs and targets on the model's device, in a list or another iterable that can be
            run through again.
        loss: Called with output and targets, gives the mean over its batch.

    Raises:
        ValueError: If there is no batch.

    Example:
        >>> mean_loss(nn.Identity(), batches=[(torch.ones(2), torch.zeros(2))], loss=nn.functional.mse_loss)
        1.0
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in batches:
            total += float(loss(call(model, inputs), targets)) * len(targets)
            count += len(targets)
    if not count:
        raise ValueError("prune.mean_loss: there was no batch; give at least one (an iterator runs once)")
    return total / count
