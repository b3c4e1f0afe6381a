"""What the parts of pruning are: importance, pattern, scope and statistic, joined by plain dicts."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

Masks: TypeAlias = dict[str, Tensor]  # boolean, by parameter name, true where the weight stays
Stats: TypeAlias = Mapping[str, Mapping[str, Tensor]]  # by parameter name, then by statistic


class Importance(Protocol):
    """Score every element of a weight; the highest scores stay.

    The first parameter is the weight. The other positional parameters are statistics, and their names
    say what must be collected (`name` is always there: the weight's own); keyword-only parameters tune
    it. The scores may depend on nothing else, so that every rank finds the same masks.

    Example:
        >>> import torch
        >>> def cautious(weight, gradient, /, *, power=1.0):  # asks for the mean gradient
        ...     return (weight * gradient).abs() ** power
        >>> rule: Importance = cautious
        >>> rule(torch.tensor([2.0]), torch.tensor([-3.0]))
        tensor([6.])
    """

    def __call__(self, weight: Tensor, /, *statistics: Any, **tuning: Any) -> Tensor:
        """Return the scores, shaped like the weight."""
        ...


class Pattern(Protocol):
    """Say which weights live or die together.

    Example:
        >>> import torch
        >>> from tonsor.prune import Channel
        >>> rows: Pattern = Channel()
        >>> rows.reduce({"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
        {'w': tensor([3., 7.])}
    """

    def reduce(self, scores: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return one score for each unit: elementwise scores by weight in, units by name out."""
        ...

    def expand(self, keep: Mapping[str, Tensor], like: Mapping[str, Tensor], /) -> Masks:
        """Return elementwise masks shaped like the weights; a weight that has no unit may be left out."""
        ...


@runtime_checkable
class Limited(Pattern, Protocol):
    """Be a pattern that holds limits, as a least number of units: what a scope has chosen is corrected by it.

    `tonsor.shrink.ChannelGroups` is one.

    Example:
        >>> from tonsor.prune import Channel
        >>> isinstance(Channel(), Limited)
        False
    """

    def limit(self, keep: Mapping[str, Tensor], units: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return the choice as it may be, given the scores of the units."""
        ...


class Scope(Protocol):
    """Choose the units that stay: say who competes with whom.

    Every scope of this room keeps three promises: a sparsity outside [0, 1) is refused, of equal units
    the one that stands first goes first, and what a sparsity removes every higher sparsity removes too.

    Example:
        >>> import torch
        >>> from tonsor.prune import local
        >>> rule: Scope = local
        >>> rule({"w": torch.tensor([1.0, 2.0])}, 0.5)
        {'w': tensor([False,  True])}
    """

    def __call__(self, units: Mapping[str, Tensor], sparsity: float, /) -> dict[str, Tensor]:
        """Return one boolean for each unit, shaped like the units, true where it stays."""
        ...


class Collector(Protocol):
    """Gather one statistic of the weights while a model runs over batches.

    It is made with the model and the weights by name, and hangs its hooks on the model then. `needs_loss`
    says whether the loss has to be computed, and with it a graph.

    Example:
        >>> import torch
        >>> from tonsor.prune import STATISTICS
        >>> model = torch.nn.Linear(2, 1)
        >>> gathered: Collector = STATISTICS["input_norm"](model, {"weight": model.weight})
        >>> for x in ([3.0, 0.0], [4.0, 2.0]):
        ...     out = model(torch.tensor([x]))
        ...     gathered.add(None)
        >>> gathered.close()
        >>> gathered.result()
        {'weight': tensor([[5., 2.]])}
    """

    needs_loss: bool

    def add(self, loss: Tensor | None, /) -> None:
        """Take in the batch that the model has just seen."""
        ...

    def result(self) -> dict[str, Tensor]:
        """Return the statistic by weight, each of a shape that broadcasts to the weight's."""
        ...

    def close(self) -> None:
        """Take the hooks off the model."""
        ...
