"""What the parts of pruning are: importance, pattern, scope, statistic, watch; joined by plain dicts."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer

Masks: TypeAlias = dict[str, Tensor]  # boolean, by parameter name, true where the weight stays
Stats: TypeAlias = Mapping[str, Mapping[str, Tensor]]  # by parameter name, then by statistic


class Importance(Protocol):
    """Score every element of a weight; the highest scores stay.

    The first parameter is the weight. The other positional parameters are statistics, and their names
    say what must be collected (`name` is always there: the weight's own); keyword-only parameters tune
    it. The scores may depend on nothing else, so that every rank finds the same masks.

    All importances are one family that looks at a layer from three sides: its weight and what the loss does
    to it, what the layer is fed, and what it gives. Whichever side it is, every element gets a score; where
    a side knows only channels, all elements of a channel get the same.

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

    def reduce(self, scores: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
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
        """Return the statistic by weight.

        Each broadcasts to its weight, or is a mean `(groups, d)` or Gram `(groups, d, d)` over the weight's
        input features, with d as the columns of `weight.flatten(1)`, or blocks along the flattened weight
        `(blocks, block, block)`. It is asked for after `close`, when no hook hangs any more.
        """
        ...

    def close(self) -> None:
        """Take the hooks off the model."""
        ...


@runtime_checkable
class Watch(Protocol):
    """Gather statistics from the gradients of a training as it goes on, without a pass of its own.

    A watch with `only_when_due = True` looks only at the step at whose end masks are found. What it
    remembers it gives as `state_dict` and takes back by `load_state_dict`.

    Example:
        >>> import torch
        >>> from tonsor.prune import DenseGradient
        >>> w = torch.ones(2, requires_grad=True); (3 * w).sum().backward()
        >>> watch: Watch = DenseGradient({"w": w})
        >>> watch.observe(); watch.stats()
        {'w': {'gradient': tensor([3., 3.])}}
    """

    def observe(self) -> None:
        """Look at the gradients; called after backward, before masks and clipping change them."""
        ...

    def stats(self) -> Stats:
        """Return the statistics by weight and name, as `collect` does."""
        ...


class Masking(Protocol):
    """Move masks while a model trains: what a training loop and `tonsor.attach` ask of `Pruner` and its kin.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from tonsor.prune import Pruner, find_masks
        >>> from tonsor.schedule import constant
        >>> pruner: Masking = Pruner({"w": torch.ones(2)}, find_masks, schedule=partial(constant, final=0.5))
        >>> pruner.observe()   # after backward
        >>> pruner.step()      # after the optimizer's step
        >>> pruner.masks
        {'w': tensor([False,  True])}
    """

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Weights by name."""
        ...

    @property
    def masks(self) -> Masks:
        """Masks of what is held at zero, the same tensors until they change."""
        ...

    @property
    def sparsity(self) -> float:
        """Fraction of all elements that is to go."""
        ...

    def observe(self) -> None:
        """Look at the gradients, or change them; called after each backward of a step."""
        ...

    def step(self, optimizer: Optimizer | None = None, /) -> None:
        """Move the masks if it is time, and apply them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        ...
